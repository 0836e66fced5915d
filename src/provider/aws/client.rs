//! The clients of a region's EC2 and Systems Manager, and what their errors mean.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use tokio::sync::Mutex;

use super::list;
use super::pace::{self, Api};
use crate::action::{EffectError, ErrorKind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From a call to the end of its answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of what EC2 says is passed on. It encloses an encoded page of reasons when it denies something.
const LONGEST_MESSAGE: usize = 400;

/// All clients that were made, by region: making one reads the machine's settings and certificates, and they keep
/// connections.
static CLIENTS: Mutex<BTreeMap<String, Arc<Clients>>> = Mutex::const_new(BTreeMap::new());

/// The clients of one region.
pub(super) struct Clients {
    pub(super) region: String,
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) ssm: aws_sdk_ssm::Client,
    /// Of the price list, which is kept in few regions.
    pub(super) pricing: aws_sdk_pricing::Client,
    /// Whether they are not to be used again.
    stale: AtomicBool,
}

impl Clients {
    /// The clients of a region, with whatever credentials the SDK finds where it looks for them.
    pub(super) async fn of(region: &str) -> Arc<Self> {
        let mut known = CLIENTS.lock().await;
        if let Some(clients) = known.get(region).filter(|clients| !clients.stale.load(Ordering::Relaxed)) {
            return Arc::clone(clients);
        }
        let config = settings(region).load().await;
        let clients = Arc::new(Self::from(region, &config));
        known.insert(region.to_owned(), Arc::clone(&clients));
        clients
    }

    fn from(region: &str, config: &SdkConfig) -> Self {
        let pricing = aws_sdk_pricing::config::Builder::from(config);
        Self {
            region: region.to_owned(),
            ec2: aws_sdk_ec2::Client::new(config),
            ssm: aws_sdk_ssm::Client::new(config),
            pricing: aws_sdk_pricing::Client::from_conf(
                pricing.region(Region::new(list::region(region))).build(),
            ),
            stale: AtomicBool::new(false),
        }
    }

    /// Waits until a call may be made.
    pub(super) async fn pace(&self, api: Api) {
        pace::wait(&self.region, api).await;
    }

    /// What an error means. After one of credentials they are looked for anew: the SDK reads files only once.
    pub(super) fn error<E>(&self, what: &str, error: &SdkError<E, HttpResponse>) -> CallError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let error = call_error(what, error);
        if error.fault == Fault::Credentials {
            self.stale.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// How the SDK is to behave. It tries nothing twice: what is tried again, and when, is planned, and a call that is
/// repeated here would not be counted there.
fn settings(region: &str) -> aws_config::ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        .timeout_config(timeouts)
}

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    fault: Fault,
    /// EC2's name of the error, if it named one.
    code: Option<String>,
    message: String,
}

impl CallError {
    /// Whether EC2 gave it one of these names.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether what was asked for is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.code.as_deref().is_some_and(|code| code.ends_with("NotFound"))
    }

    /// Of what was made a moment ago: EC2 may not know of it everywhere yet (Amazon EC2 Developer Guide, "Eventual
    /// consistency"), so that it is worth another try.
    pub(super) fn of_something_new(mut self) -> EffectError {
        if self.is_not_found() {
            self.fault = Fault::Unavailable;
        }
        self.into()
    }
}

impl From<CallError> for EffectError {
    fn from(error: CallError) -> Self {
        Self { kind: error.fault.kind(), message: error.message }
    }
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No answer, or none that says anything: it may or may not have been done.
    Unavailable,
    /// Too many calls.
    Throttled,
    /// There are no credentials, or none that are still good.
    Credentials,
    /// It was done before, with other parameters.
    DoneOtherwise,
    /// It is used by something that is about to go, or should be.
    InUse,
    /// There is none of it.
    NoCapacity,
    /// The subnet has no address left.
    SubnetFull,
    /// The account may not have more on that market.
    MarketLimit,
    /// It is wrong.
    Rejected,
}

impl Fault {
    fn kind(self) -> ErrorKind {
        match self {
            Self::Unavailable | Self::Throttled | Self::Credentials | Self::DoneOtherwise | Self::InUse => {
                ErrorKind::Unavailable
            }
            Self::NoCapacity => ErrorKind::NoCapacity,
            Self::SubnetFull => ErrorKind::SubnetFull,
            Self::MarketLimit => ErrorKind::MarketLimit,
            Self::Rejected => ErrorKind::Rejected,
        }
    }
}

/// What an error of the SDK means, said of `what` could not be done: `cannot launch an instance: ...`.
pub(super) fn call_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refusal) => {
            let code = refusal.err().code();
            let said = refusal.err().message().unwrap_or_default();
            said_error(what, code, said, refusal.raw().status().as_u16())
        }
        SdkError::TimeoutError(_) => unheard(what, "no answer in time"),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            unheard(what, &format!("an answer that nobody understands (status {status})"))
        }
        // Whatever it was that came between, it says more than that there was no answer.
        SdkError::DispatchFailure(failure) => {
            let failure = failure.as_connector_error();
            let cause = failure.and_then(|failure| failure.source()).map(causes);
            unheard(what, &cause.unwrap_or_else(|| causes(error)))
        }
        other => unheard(what, &causes(other)),
    }
}

/// What an answer means. The name says more than the status: EC2 answers 500 when it has no instances, too.
fn said_error(what: &str, code: Option<&str>, said: &str, status: u16) -> CallError {
    let fault = match code {
        Some(code) => fault_of(code, said, status),
        None if status >= 500 => Fault::Unavailable,
        None => Fault::Rejected,
    };
    let reason = match (code, clip(said).as_str()) {
        (Some(code), "") => code.to_owned(),
        (Some(code), said) => format!("{code}: {said}"),
        (None, "") => format!("status {status}"),
        (None, said) => format!("{said} (status {status})"),
    };
    let message = match fault {
        Fault::Credentials => without_credentials(what, &reason),
        Fault::DoneOtherwise => {
            format!(
                "cannot {what}: it was asked for already with other parameters; it is looked for ({reason})"
            )
        }
        _ => format!("cannot {what}: {reason}"),
    };
    CallError { fault, code: code.map(str::to_owned), message }
}

/// "Error codes for the Amazon EC2 API" (Amazon EC2 API Reference), and "Common errors" of Systems Manager.
fn fault_of(code: &str, said: &str, status: u16) -> Fault {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "EC2ThrottledException"
        | "RequestThrottled"
        | "TooManyRequestsException"
        | "TooManyUpdates" => Fault::Throttled,
        // Of images, EC2 says the same when they are not for this account.
        "AuthFailure" if said.contains("Not authorized for") => Fault::Rejected,
        "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "SignatureDoesNotMatch" => Fault::Credentials,
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "SpotMaxPriceTooLow"
        | "UnfulfillableCapacity"
        | "Unsupported" => Fault::NoCapacity,
        "InsufficientFreeAddressesInSubnet" => Fault::SubnetFull,
        "VcpuLimitExceeded"
        | "InstanceLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "MaxSpotFleetRequestCountExceeded" => Fault::MarketLimit,
        "IdempotentParameterMismatch" => Fault::DoneOtherwise,
        "DependencyViolation" => Fault::InUse,
        code if code.ends_with(".InUse") || code == "VolumeInUse" => Fault::InUse,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServerInternal"
        | "Unavailable"
        | "ServiceUnavailable" => Fault::Unavailable,
        _ if status >= 500 => Fault::Unavailable,
        _ => Fault::Rejected,
    }
}

/// Nothing was heard of EC2. The SDK reports so, too, that it found no credentials.
fn unheard(what: &str, reason: &str) -> CallError {
    if reason.to_ascii_lowercase().contains("credential") {
        // It names every place where it has looked.
        let reason = reason.split("Attempted:").next().unwrap_or(reason);
        let message = without_credentials(what, &clip(reason));
        return CallError { fault: Fault::Credentials, code: None, message };
    }
    CallError { fault: Fault::Unavailable, code: None, message: format!("cannot {what}: {}", clip(reason)) }
}

fn without_credentials(what: &str, reason: &str) -> String {
    format!(
        "cannot {what}: the controller's credentials for AWS are missing, wrong or have expired ({reason}); renew them \
         with `aws configure` or `aws sso login`, or start the controller with others in its environment"
    )
}

/// An error of the SDK with its causes, which it does not print itself.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

/// One line of a reasonable length.
fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').chars().take(LONGEST_MESSAGE).collect()
}

/// Has the clients of a region talk to a server of a test's.
#[cfg(test)]
pub(super) async fn talk_to(region: &str, endpoint: &str) {
    let credentials = aws_sdk_ec2::config::Credentials::new("test", "test", None, None, "test");
    let config = settings(region).endpoint_url(endpoint).credentials_provider(credentials).load().await;
    CLIENTS.lock().await.insert(region.to_owned(), Arc::new(Clients::from(region, &config)));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use wiremock::matchers::method;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    fn kind(code: &str, status: u16) -> ErrorKind {
        EffectError::from(said_error("launch an instance", Some(code), "it says so.", status)).kind
    }

    #[test]
    fn errors_are_told_apart_by_their_names() {
        for code in ["RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException"] {
            assert_eq!(kind(code, 503), ErrorKind::Unavailable, "{code}");
            assert_eq!(kind(code, 400), ErrorKind::Unavailable, "{code}");
        }
        for code in ["InternalError", "Unavailable", "ServiceUnavailable", "SomethingNew"] {
            assert_eq!(kind(code, 500), ErrorKind::Unavailable, "{code}");
        }
        for code in [
            "InsufficientInstanceCapacity",
            "InsufficientHostCapacity",
            "InsufficientReservedInstanceCapacity",
            "Unsupported",
            "SpotMaxPriceTooLow",
            "UnfulfillableCapacity",
        ] {
            assert_eq!(kind(code, 500), ErrorKind::NoCapacity, "{code}");
            assert_eq!(kind(code, 400), ErrorKind::NoCapacity, "{code}");
        }
        assert_eq!(kind("InsufficientFreeAddressesInSubnet", 400), ErrorKind::SubnetFull);
        for code in [
            "VcpuLimitExceeded",
            "InstanceLimitExceeded",
            "MaxSpotInstanceCountExceeded",
            "MaxSpotFleetRequestCountExceeded",
        ] {
            assert_eq!(kind(code, 400), ErrorKind::MarketLimit, "{code}");
        }
        for code in ["InvalidNetworkInterface.InUse", "DependencyViolation", "IdempotentParameterMismatch"] {
            assert_eq!(kind(code, 400), ErrorKind::Unavailable, "{code}");
        }
        for code in ["UnauthorizedOperation", "InvalidAMIID.NotFound", "InvalidParameterValue"] {
            assert_eq!(kind(code, 400), ErrorKind::Rejected, "{code}");
        }
    }

    #[test]
    fn bad_credentials_are_to_be_renewed() {
        for code in [
            "ExpiredToken",
            "RequestExpired",
            "AuthFailure",
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ] {
            let error = said_error("list instances", Some(code), "no", 401);
            assert_eq!(error.fault, Fault::Credentials, "{code}");
            assert_eq!(error.fault.kind(), ErrorKind::Unavailable);
            assert!(error.message.contains("renew them"), "{}", error.message);
        }
        let error =
            unheard("list instances", "no credentials found in chain. Attempted:\n  Environment: not set");
        assert_eq!(error.fault, Fault::Credentials);
        assert!(
            error.message.contains("have expired (no credentials found in chain); renew"),
            "{}",
            error.message
        );
        let private =
            said_error("look at images", Some("AuthFailure"), "Not authorized for images: [ami-1]", 403);
        assert_eq!(private.fault, Fault::Rejected);
    }

    #[test]
    fn a_message_says_what_and_why() {
        let error =
            said_error("launch an instance", Some("VcpuLimitExceeded"), "You have requested more.", 400);
        assert_eq!(error.message, "cannot launch an instance: VcpuLimitExceeded: You have requested more");
        let error = said_error("launch an instance", None, "", 418);
        assert_eq!(error.message, "cannot launch an instance: status 418");
        assert_eq!(error.fault, Fault::Rejected);
        assert_eq!(said_error("launch an instance", None, "", 502).fault, Fault::Unavailable);
        let long = said_error("launch an instance", Some("UnauthorizedOperation"), &"é".repeat(9000), 403);
        assert!(long.message.chars().count() < 500);
    }

    #[test]
    fn what_was_just_made_may_not_be_known_yet() {
        let error = said_error("open a port", Some("InvalidGroup.NotFound"), "no such group", 400);
        assert!(error.is_not_found());
        assert_eq!(error.fault, Fault::Rejected);
        assert_eq!(error.of_something_new().kind, ErrorKind::Unavailable);
        let error = said_error("open a port", Some("InvalidParameterValue"), "no", 400);
        assert_eq!(error.of_something_new().kind, ErrorKind::Rejected);
    }

    /// What calling a server gives that answers so, and how often it was called.
    async fn ask(region: &str, answer: ResponseTemplate) -> (CallError, usize) {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(answer).mount(&server).await;
        talk_to(region, &server.uri()).await;
        let clients = Clients::of(region).await;
        let error = clients.ec2.describe_instances().send().await.unwrap_err();
        let calls = server.received_requests().await.unwrap_or_default().len();
        (clients.error("list instances", &error), calls)
    }

    #[tokio::test]
    async fn an_error_is_read_from_the_wire_and_nothing_is_tried_twice() {
        let body = "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>\
                    <Message>There is none.</Message></Error></Errors><RequestID>1</RequestID></Response>";
        let (error, calls) = ask("test-wire-1", ResponseTemplate::new(500).set_body_string(body)).await;
        assert_eq!(error.message, "cannot list instances: InsufficientInstanceCapacity: There is none");
        assert_eq!(error.fault, Fault::NoCapacity);
        assert_eq!(calls, 1);
        let (error, calls) = ask("test-wire-2", ResponseTemplate::new(503).set_body_string("<html>")).await;
        assert_eq!(error.fault, Fault::Unavailable, "{error:?}");
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn clients_with_bad_credentials_are_not_used_again() {
        let body = "<Response><Errors><Error><Code>RequestExpired</Code><Message>Request has expired.</Message>\
                    </Error></Errors><RequestID>1</RequestID></Response>";
        let (error, _) = ask("test-wire-3", ResponseTemplate::new(400).set_body_string(body)).await;
        assert_eq!(error.fault, Fault::Credentials);
        let known = CLIENTS.lock().await;
        assert!(known.get("test-wire-3").is_some_and(|clients| clients.stale.load(Ordering::Relaxed)));
    }

    #[tokio::test]
    async fn nobody_there_is_out_of_reach() {
        talk_to("test-wire-4", "http://127.0.0.1:9").await;
        let clients = Clients::of("test-wire-4").await;
        let error = clients.ec2.describe_instances().send().await.unwrap_err();
        let error = clients.error("list instances", &error);
        assert_eq!(error.fault, Fault::Unavailable, "{error:?}");
    }
}

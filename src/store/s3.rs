//! Object storage that speaks S3's protocol. Where it is, and who we are there, is what the AWS command line would
//! take: the environment, the shared configuration and credentials files, a role.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, resolve_bucket_region};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, CredentialProvider, Error, GetOptions, ObjectStore as _,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::Mutex;
use tokio_util::io::StreamReader;

use super::{Contents, PlaceError};
use crate::api::bucket::BucketAddress;
use crate::api::ids::Digest;

/// What is larger is put in parts of at least this size.
const PART: u64 = 8 << 20;
/// S3 takes no more parts than 10,000 (Amazon S3 User Guide, "Multipart upload limits").
const MAX_PARTS: u64 = 9_000;
/// How many parts are under way at the same time: as many are in memory.
const PARTS_AT_ONCE: usize = 4;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing may come back. Parts go up in that time, over slow links too.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// A part of something long may be tried so often within one try of the whole, which is planned.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Credentials are looked for anew so long before they expire.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

const NO_CREDENTIALS: &str = "there are no AWS credentials";

/// The field of an object that has its digest, for people too: `x-amz-meta-sha256`.
const DIGEST: &str = "sha256";

/// The clients of the buckets that were used. They keep connections and credentials.
static CLIENTS: Mutex<BTreeMap<String, Arc<AmazonS3>>> = Mutex::const_new(BTreeMap::new());

/// Whether an object is there, with this digest and size.
///
/// # Errors
/// If that cannot be told.
pub(crate) async fn holds(address: &BucketAddress, digest: &Digest, size: u64) -> Result<bool, PlaceError> {
    let head = GetOptions { head: true, ..GetOptions::default() };
    match client(address).await?.get_opts(&path(address)?, head).await {
        Ok(found) => {
            let same = found.attributes.get(&Attribute::Metadata(DIGEST.into()));
            Ok(found.meta.size == size && same.is_some_and(|same| same.as_ref() == digest.0))
        }
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => done("look for", address, Err(error)).await,
    }
}

/// Puts an object: whole and as its digest says, or not at all.
///
/// # Errors
/// If it cannot be put, or what was to be put is not what was said.
pub(crate) async fn write(
    address: &BucketAddress,
    size: u64,
    digest: Option<&Digest>,
    contents: impl AsyncRead + Send + Unpin,
) -> Result<(), PlaceError> {
    let (client, path) = (client(address).await?, path(address)?);
    let mut attributes = Attributes::new();
    if let Some(digest) = digest {
        attributes.insert(Attribute::Metadata(DIGEST.into()), digest.to_string().into());
    }
    let mut source = Source { contents, hash: Sha256::new(), size: 0 };
    if size <= PART {
        let whole = source.piece(size + 1).await?;
        source.check(address, size, digest)?;
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = client.put_opts(&path, PutPayload::from(whole), options).await;
        return done("write", address, put).await.map(|_| ());
    }
    let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
    let upload = done("write", address, client.put_multipart_opts(&path, options).await).await?;
    let part = PART.max(size.div_ceil(MAX_PARTS));
    let mut parts = WriteMultipart::new_with_chunk_size(upload, usize::try_from(part).unwrap_or(usize::MAX));
    let sent = send_parts(&mut parts, part, &mut source, address).await;
    if let Err(error) = sent.and_then(|()| source.check(address, size, digest)) {
        // Parts that stay cost something, and their bucket may have a rule for that; they are not worth another error.
        let _ = parts.abort().await;
        return Err(error);
    }
    done("write", address, parts.finish().await).await.map(|_| ())
}

async fn send_parts(
    parts: &mut WriteMultipart,
    part: u64,
    source: &mut Source<impl AsyncRead + Send + Unpin>,
    address: &BucketAddress,
) -> Result<(), PlaceError> {
    loop {
        done("write", address, parts.wait_for_capacity(PARTS_AT_ONCE).await).await?;
        let piece = source.piece(part).await?;
        if piece.is_empty() {
            return Ok(());
        }
        parts.put(piece.into());
    }
}

/// Puts a small object, whole.
///
/// # Errors
/// If it cannot be put, or nobody can say whether it was.
pub(crate) async fn put(address: &BucketAddress, contents: Vec<u8>) -> Result<(), PlaceError> {
    let (client, path) = (client(address).await?, path(address)?);
    let put = client.put(&path, PutPayload::from(contents)).await;
    done("write", address, put).await.map(|_| ())
}

/// The last object of a directory, in the order of names, behind a name: its own name, and its size.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) async fn last(
    directory: &BucketAddress,
    behind: &str,
) -> Result<Option<(String, u64)>, PlaceError> {
    let client = client(directory).await?;
    let mut objects = client.list_with_offset(Some(&path(directory)?), &path(&directory.join(behind))?);
    let mut last: Option<(String, u64)> = None;
    while let Some(found) = done("list", directory, objects.try_next().await).await? {
        let name = found.location.filename().unwrap_or_default();
        if last.as_ref().is_none_or(|(before, _)| before.as_str() < name) {
            last = Some((name.to_owned(), found.size));
        }
    }
    Ok(last)
}

/// An object, from its beginning.
///
/// # Errors
/// If it is not there, or cannot be read.
pub(super) async fn read(address: &BucketAddress) -> Result<Contents, PlaceError> {
    match client(address).await?.get_opts(&path(address)?, GetOptions::default()).await {
        Ok(found) => Ok(Box::pin(StreamReader::new(found.into_stream().map_err(std::io::Error::other)))),
        // Not if the bucket is not there, or whoever answers knows no buckets.
        Err(error @ Error::NotFound { .. }) if said(&error).is_some_and(|(code, _)| code == "NoSuchKey") => {
            Err(PlaceError::Missing(address.to_string()))
        }
        Err(error) => done("read", address, Err(error)).await,
    }
}

/// Removes an object, if it is there.
///
/// # Errors
/// If it cannot be removed.
pub(super) async fn remove(address: &BucketAddress) -> Result<(), PlaceError> {
    match client(address).await?.delete(&path(address)?).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => done("remove", address, Err(error)).await,
    }
}

/// What is being read, with what is known of it so far.
struct Source<R> {
    contents: R,
    hash: Sha256,
    size: u64,
}

impl<R: AsyncRead + Send + Unpin> Source<R> {
    /// The next bytes: so many, unless it ends before.
    async fn piece(&mut self, size: u64) -> Result<Vec<u8>, PlaceError> {
        let mut piece = Vec::new();
        let read = (&mut self.contents).take(size).read_to_end(&mut piece).await;
        read.map_err(|error| PlaceError::Failed(format!("what is to be kept cannot be read: {error}")))?;
        self.hash.update(&piece);
        self.size += piece.len() as u64;
        Ok(piece)
    }

    fn check(&self, address: &BucketAddress, size: u64, digest: Option<&Digest>) -> Result<(), PlaceError> {
        let found: String = self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if self.size == size && digest.is_none_or(|digest| digest.0 == found) {
            return Ok(());
        }
        Err(PlaceError::Spoilt(format!("what was to be kept as {address} did not arrive whole")))
    }
}

fn path(address: &BucketAddress) -> Result<Path, PlaceError> {
    Path::parse(&address.key)
        .map_err(|error| PlaceError::Failed(format!("no object can be called {address}: {error}")))
}

/// The client of a bucket.
async fn client(address: &BucketAddress) -> Result<Arc<AmazonS3>, PlaceError> {
    let mut known = CLIENTS.lock().await;
    if let Some(client) = known.get(&address.bucket) {
        return Ok(Arc::clone(client));
    }
    let made = make_client(&address.bucket).await;
    let client = made.map_err(|error| {
        PlaceError::Failed(format!("cannot reach the bucket {}: {}", address.bucket, reason(&error)))
    })?;
    let client = Arc::new(client);
    known.insert(address.bucket.clone(), Arc::clone(&client));
    Ok(client)
}

async fn make_client(bucket: &str) -> Result<AmazonS3, Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(READ_TIMEOUT)
        .with_timeout_disabled();
    let endpoint = std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.or_else(|| config.endpoint_url().map(str::to_owned));
    let region = match (config.region(), &endpoint) {
        (Some(region), _) => region.to_string(),
        // Others than Amazon seldom have regions, and take the name of the first one.
        (None, Some(_)) => "us-east-1".to_owned(),
        (None, None) => resolve_bucket_region(bucket, &options).await?,
    };
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_retry(retry)
        .with_client_options(options)
        // Amazon wants the bucket in the host's name; elsewhere there is often no such name.
        .with_virtual_hosted_style_request(endpoint.is_none() && !bucket.contains('.'))
        .with_credentials(Arc::new(Credentials {
            chain: config.credentials_provider(),
            known: Mutex::new(None),
        }));
    if let Some(endpoint) = endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    builder.build()
}

/// The SDK's credentials, for a client that is not the SDK's.
#[derive(Debug)]
struct Credentials {
    chain: Option<SharedCredentialsProvider>,
    known: Mutex<Option<(Arc<AwsCredential>, Option<SystemTime>)>>,
}

impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    fn get_credential<'a, 'f>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<AwsCredential>, Error>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut known = self.known.lock().await;
            let good = |until: &Option<SystemTime>| {
                until.is_none_or(|until| SystemTime::now() + RENEWED_BEFORE < until)
            };
            if let Some((credential, _)) = known.as_ref().filter(|(_, until)| good(until)) {
                return Ok(Arc::clone(credential));
            }
            let chain = self.chain.as_ref().ok_or_else(|| no_credentials("nobody gives any".into()))?;
            let found = chain.provide_credentials().await.map_err(|error| no_credentials(error.into()))?;
            let credential = Arc::new(AwsCredential {
                key_id: found.access_key_id().to_owned(),
                secret_key: found.secret_access_key().to_owned(),
                token: found.session_token().map(str::to_owned),
            });
            *known = Some((Arc::clone(&credential), found.expiry()));
            Ok(credential)
        })
    }
}

fn no_credentials(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let message = format!("{NO_CREDENTIALS}: {cause}");
    Error::Generic { store: "S3", source: message.into() }
}

/// What came of something, or why it could not be done. After a refusal credentials are looked for anew: files are
/// read only once.
async fn done<T>(action: &str, address: &BucketAddress, result: Result<T, Error>) -> Result<T, PlaceError> {
    let error = match result {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let reason = reason(&error);
    let refused = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
    if refused || reason.starts_with(NO_CREDENTIALS) {
        CLIENTS.lock().await.remove(&address.bucket);
    }
    Err(PlaceError::Failed(format!("cannot {action} {address}: {reason}")))
}

/// What a server said: a word and a sentence.
fn said(error: &Error) -> Option<(String, String)> {
    let text = error.to_string();
    let between = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
    };
    Some((between("Code")?, between("Message").unwrap_or_default()))
}

/// Why something did not work, for a person.
fn reason(error: &Error) -> String {
    if let Some((code, message)) = said(error) {
        return format!("{code}: {}", message.trim_end_matches('.'));
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_the_server_said() {
        let answer = "Error performing PUT http://h/b/k in 3ms - Server returned non-2xx status code: 403 Forbidden: \
                      <Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
        let error = Error::Generic { store: "S3", source: answer.into() };
        assert_eq!(reason(&error), "AccessDenied: Access Denied");
        let error = Error::Generic { store: "S3", source: std::io::Error::other("no route to host").into() };
        assert_eq!(reason(&error), "no route to host");
    }
}

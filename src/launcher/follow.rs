//! Following a Ray job from outside, through the dashboard alone, over a line that may break.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::lines::{Lines, Piece};
use crate::provider::ray::RayError;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::jobs::ListedJob;

/// How often it is asked whether the job has ended.
const LOOK: Duration = Duration::from_secs(1);

/// How long the beginning of an answer may take, over a line that may be broken.
const ANSWER: Duration = Duration::from_secs(30);

/// What there is to tell of a Ray job.
#[derive(Debug)]
pub enum News {
    /// It has written something.
    Piece(Piece),
    /// The dashboard cannot be reached any more, and why.
    Lost(String),
    /// It can be reached again.
    Back,
    /// The job has ended; nothing follows. What it wrote before it said anything, such as why it could not be started.
    Ended(Box<ListedJob>, String),
    /// The dashboard refuses, or does not know the job; nothing follows.
    Refused(RayError),
}

/// Follows a Ray job until it has ended, or nobody listens any more.
pub async fn follow(dashboard: Dashboard, submission: String, news: mpsc::Sender<News>) {
    let follower = Follower {
        dashboard,
        submission,
        news,
        node: None,
        seen: 0,
        lines: Lines::default(),
        preface: Some(String::new()),
        lost: false,
    };
    // Nobody listens: there is nobody to tell.
    let _ = follower.run().await;
}

struct Follower {
    dashboard: Dashboard,
    submission: String,
    news: mpsc::Sender<News>,
    /// The node that the job runs on, as soon as it does.
    node: Option<String>,
    /// How many bytes of the output were read.
    seen: u64,
    lines: Lines,
    /// What came before the first line of ours: of Ray, and of what went wrong before ours began.
    preface: Option<String>,
    lost: bool,
}

/// Nobody listens any more.
struct Unheard;

impl Follower {
    async fn run(mut self) -> Result<(), Unheard> {
        loop {
            // There is none before it has begun; and whether the dashboard is lost is found out by asking.
            let ended = match self.output().await {
                Some(output) => self.read(pin!(output)).await?,
                None => self.look().await?,
            };
            match ended {
                Some(Ok(job)) => {
                    self.read_the_rest().await?;
                    let preface = self.preface.take().unwrap_or_default();
                    return self.tell(News::Ended(Box::new(job), preface)).await;
                }
                Some(Err(error)) => return self.tell(News::Refused(error)).await,
                None => {}
            }
        }
    }

    /// The job's output, if it can be had.
    async fn output(&self) -> Option<impl Stream<Item = Result<Vec<u8>, RayError>> + use<>> {
        let output = self.dashboard.follow_output(&self.submission, self.node.as_ref()?);
        tokio::time::timeout(ANSWER, output).await.ok()?.ok()
    }

    /// Reads until the job has ended, or the line breaks.
    async fn read(
        &mut self,
        mut output: std::pin::Pin<&mut impl Stream<Item = Result<Vec<u8>, RayError>>>,
    ) -> Result<Option<Result<ListedJob, RayError>>, Unheard> {
        let mut skipped = 0;
        loop {
            tokio::select! {
                piece = output.next() => match piece {
                    Some(Ok(bytes)) => self.give(&bytes, &mut skipped).await?,
                    _ => return self.look().await,
                },
                job = self.look_in_a_while() => {
                    // After an answer that did not come, what is read may be nothing for ever.
                    let lost = job.is_err();
                    let ended = self.note(job).await?;
                    if lost || ended.is_some() {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    async fn look_in_a_while(&self) -> Result<ListedJob, RayError> {
        tokio::time::sleep(LOOK).await;
        self.dashboard.listed_job(&self.submission).await
    }

    /// Waits a while; gives the job if it has ended.
    async fn look(&mut self) -> Result<Option<Result<ListedJob, RayError>>, Unheard> {
        let job = self.look_in_a_while().await;
        self.note(job).await
    }

    /// Takes note of what was found out about the job; gives it if it has ended.
    async fn note(
        &mut self,
        job: Result<ListedJob, RayError>,
    ) -> Result<Option<Result<ListedJob, RayError>>, Unheard> {
        match job {
            Ok(job) => {
                if std::mem::take(&mut self.lost) {
                    self.tell(News::Back).await?;
                }
                self.node.clone_from(&job.driver_node_id);
                Ok(job.has_ended().then_some(Ok(job)))
            }
            Err(RayError::Unavailable { url, reason }) => {
                if !std::mem::replace(&mut self.lost, true) {
                    self.tell(News::Lost(format!("{url} cannot be reached: {reason}"))).await?;
                }
                Ok(None)
            }
            Err(error) => Ok(Some(Err(error))),
        }
    }

    /// What was written after what was read, now that nothing is added.
    async fn read_the_rest(&mut self) -> Result<(), Unheard> {
        let Some(node) = &self.node else { return Ok(()) };
        let Ok(output) = self.dashboard.whole_output(&self.submission, node).await else { return Ok(()) };
        let (mut output, mut skipped) = (pin!(output), 0);
        while let Some(Ok(bytes)) = output.next().await {
            self.give(&bytes, &mut skipped).await?;
        }
        Ok(())
    }

    /// Tells what is new in bytes of the output, of which so many were read since its beginning.
    async fn give(&mut self, bytes: &[u8], read: &mut u64) -> Result<(), Unheard> {
        let before = *read;
        *read += bytes.len() as u64;
        let known = usize::try_from(self.seen.saturating_sub(before)).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(known..).filter(|new| !new.is_empty()) else { return Ok(()) };
        self.seen = *read;
        for piece in self.lines.take(new) {
            match (piece, &mut self.preface) {
                (Piece::Output(text), Some(preface)) => preface.push_str(&text),
                (piece, preface) => {
                    *preface = None;
                    self.tell(News::Piece(piece)).await?;
                }
            }
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Unheard> {
        self.news.send(news).await.map_err(|_| Unheard)
    }
}

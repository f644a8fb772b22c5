//! Decides which node a pod runs on, and tells the API.
//!
//! Read first: [`start`] and [`Config`].

use coracle_client::Informers;
use kube::Client;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name this scheduler are scheduled; the others are left alone.
    pub name: String,
    /// Makes the choice among equal nodes repeatable.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config { name: "default-scheduler".to_owned(), seed: None }
    }
}

/// The running scheduler. It is stopped by [`Handle::shutdown`], or when the handle is dropped.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts the scheduler. Must be called inside a tokio runtime.
pub fn start(_client: Client, _informers: &Informers, _config: Config) -> Handle {
    let tasks = TaskTracker::new();
    tasks.close();
    Handle { stop: CancellationToken::new(), tasks }
}

impl Handle {
    /// Ends the scheduler: no new work, what is under way is finished, then the last events are written.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

//! A thread for what must go on under any load: the lease is renewed and probes are answered there.

use std::io;

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// The thread, until this is dropped.
pub(crate) struct Vital(Option<Runtime>);

impl Vital {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("vital").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// What is spawned until the guard is dropped runs there.
    pub(crate) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    /// Runs a future there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn(future).await.map_err(io::Error::other),
            None => Err(io::Error::other("the thread has ended")),
        }
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        // Waiting for it, as a runtime's own drop does, is not allowed where futures run.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

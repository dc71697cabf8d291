//! One server process that cannot outlive us.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::Error;

/// Runs "$@" until it ends or until the pipe on stdin closes, which the kernel does when we die, however we die.
/// (`PR_SET_PDEATHSIG` would need unsafe code and fires when the spawning *thread* ends.)
const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- & child=$!
{ read -r _ <&3; kill -KILL "$child"; } 2>/dev/null & watcher=$!
exec 3<&-
wait "$child"; status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
"#;

/// A command line, before it is started.
#[derive(Debug, Clone)]
pub(crate) struct ServerCommand {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// A running server; dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    log: PathBuf,
    // The child is locked because asking whether it lives needs `&mut`, and many tasks ask.
    supervisor: Mutex<Child>,
    leash: Option<ChildStdin>,
}

impl Server {
    /// Starts the server; its output is appended to `<logs>/<name>.log`.
    pub(crate) fn spawn(command: &ServerCommand, logs: &Path) -> Result<Self, Error> {
        Self::supervise(SUPERVISOR, command, None, logs)
    }

    /// Starts it under another supervising script, which gets `held` as its stdout.
    pub(crate) fn supervise(
        script: &str,
        command: &ServerCommand,
        held: Option<OwnedFd>,
        logs: &Path,
    ) -> Result<Self, Error> {
        let log = logs.join(format!("{}.log", command.name));
        let output = File::options().create(true).append(true).open(&log).map_err(Error::file("open", &log))?;
        let errors = output.try_clone().map_err(Error::file("open", &log))?;
        let process = |source| Error::Process { name: command.name.to_owned(), source };
        let mut supervisor = Command::new("sh")
            .args(["-c", script, command.name])
            .arg(&command.program)
            .args(&command.arguments)
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(held.map_or_else(|| Stdio::from(output), Stdio::from))
            .stderr(errors)
            // A group of its own: Ctrl-C in a terminal reaches us, and we end the servers in order.
            .process_group(0)
            .spawn()
            .map_err(process)?;
        let leash = supervisor.stdin.take();
        Ok(Self { name: command.name, log, supervisor: Mutex::new(supervisor), leash })
    }

    /// Fails with the end of the log if the server is no longer running.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let status = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
        match status {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.exited(status.to_string())),
            Err(error) => Err(self.exited(error.to_string())),
        }
    }

    fn exited(&self, status: String) -> Error {
        Error::Exited { name: self.name, status, tail: tail(&self.log), log: self.log.clone() }
    }

    /// Whether this is the server of that name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Tells the supervisor to kill the server, without waiting.
    pub(crate) fn release(&mut self) {
        self.leash = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.release();
        let child = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _: io::Result<_> = child.wait();
    }
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

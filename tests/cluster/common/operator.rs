//! The operator as a process of its own, as a user runs it.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use kube::{Client, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs "$@" and writes its pid to $PIDFILE; kills it when the pipe on stdin closes, which happens when we die.
const LEASH: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- & child=$!
echo "$child" > "$PIDFILE"
{ read -r _ <&3; kill -KILL "$child"; } 2>/dev/null & watcher=$!
exec 3<&-
wait "$child"; status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
"#;

/// A running operator; killed when dropped.
pub struct Operator {
    supervisor: Child,
    leash: Option<ChildStdin>,
    pid: u32,
    pub log: PathBuf,
}

impl Operator {
    /// Starts `sidecarset-operator run --local` with further arguments and waits until it is ready.
    pub async fn start(kubeconfig: &Path, name: &str, arguments: &[&str]) -> Self {
        let mut all =
            vec!["run", "--local", "--webhook-address=127.0.0.1:0", "--health-address=127.0.0.1:0", "--identity", name];
        all.extend(arguments);
        let mut operator = Self::spawn(kubeconfig, name, &all);
        operator.wait_for_log("operator is ready").await;
        operator
    }

    /// Starts the operator with exactly these arguments.
    pub fn spawn(kubeconfig: &Path, name: &str, arguments: &[&str]) -> Self {
        let folder = kubeconfig.parent().unwrap();
        let unique = format!("{name}-{}", Instant::now().elapsed().as_nanos() + u128::from(std::process::id()));
        let (log, pidfile) =
            (folder.join(format!("operator-{unique}.log")), folder.join(format!("operator-{unique}.pid")));
        let _ = std::fs::remove_file(&pidfile);
        let output = File::create(&log).unwrap();
        let mut supervisor = Command::new("sh")
            .args(["-c", LEASH, "operator", env!("CARGO_BIN_EXE_sidecarset-operator")])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("PIDFILE", &pidfile)
            .env("RUST_LOG", "info,sidecarset=debug,kube=warn")
            .env_remove("POD_NAMESPACE")
            .stdin(Stdio::piped())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        let leash = supervisor.stdin.take();
        let started = Instant::now();
        let pid = loop {
            let text = std::fs::read_to_string(&pidfile).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "the operator did not start");
            std::thread::yield_now();
        };
        Self { supervisor, leash, pid, log }
    }

    /// Waits until the log contains a text.
    pub async fn wait_for_log(&mut self, text: &str) {
        let started = Instant::now();
        while !self.logged().contains(text) {
            assert!(self.supervisor.try_wait().unwrap().is_none(), "the operator ended:\n{}", self.logged());
            assert!(started.elapsed() < super::DEADLINE, "{text:?} is not in the log:\n{}", self.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn logged(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// SIGKILL: no clean-up of any kind.
    pub fn kill(mut self) {
        self.signal("KILL");
        self.supervisor.wait().unwrap();
    }

    /// SIGTERM; returns whether it ended by itself with success.
    pub fn terminate(mut self) -> bool {
        self.signal("TERM");
        self.supervisor.wait().unwrap().success()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// An address that it has logged: `webhook` or `health`.
    pub fn address(&self, port: &str) -> SocketAddr {
        let log = self.logged();
        let rest = log.split(&format!("{port}=")).nth(1).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// A client of its webhooks, whatever their certificate.
    pub fn webhook(&self) -> Client {
        let mut config = Config::new(format!("https://{}", self.address("webhook")).parse().unwrap());
        config.accept_invalid_certs = true;
        Client::try_from(config).unwrap()
    }

    /// What Prometheus would read.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.address("health")).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.unwrap();
        metrics
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.leash = None;
        let _ = self.supervisor.wait();
    }
}

//! Programs a test starts. They end with the test program at the latest, even if that is killed.

use crate::eventually;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
};

/// A running program that writes its log into a file. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts everything. `setpriv --pdeathsig` ends a program with the *thread* that started it, and a test's thread ends
/// with the test: a program that several tests share needs a thread that lives as long as the test program.
static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, queue) = mpsc::channel::<Order>();
    thread::Builder::new()
        .name("starter".into())
        .spawn(move || queue.into_iter().for_each(|(mut command, reply)| drop(reply.send(command.spawn()))))
        .expect("a thread");
    Mutex::new(orders)
});

impl Process {
    /// Starts `program` with this environment and no other, and appends what it says to `log`.
    pub fn start(program: &Path, arguments: &[&str], environment: &BTreeMap<String, String>, log: PathBuf) -> Self {
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.env_clear().envs(environment);
        command.stdin(Stdio::null()).stderr(out.try_clone().expect("a log file")).stdout(out);
        let (reply, started) = mpsc::channel();
        STARTER.lock().expect("the starter").send((command, reply)).expect("the starter");
        let child = started.recv().expect("the starter").expect("setpriv (util-linux) could not be started");
        Self { child, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        // The handle has not been waited for, so the id is still this program's.
        let id = self.id().to_string();
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status().expect("a shell");
        assert!(told.success(), "process {id} could not be told to stop");
        eventually("a program that was told to stop has ended", async || self.ended().ok_or("it runs")).await
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Everything it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

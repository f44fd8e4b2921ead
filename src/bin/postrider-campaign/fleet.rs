//! The processes of a campaign: nodes at fixed addresses, the publisher and the receiver.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ledger::now;

/// Token of the API in a campaign.
pub(crate) const TOKEN: &str = "a-token-of-the-campaign-alone";

/// Time in which a node has to accept requests after its start.
const START: Duration = Duration::from_secs(60);

/// A port of loopback that is free now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// One process; it is killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", name.display()))?;
        Ok(Self(child))
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal)
            .context("cannot send a signal to a process")
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node, which keeps its name and address when it is started again.
pub(crate) struct CampaignNode {
    pub(crate) name: String,
    port: u16,
    process: Option<Process>,
}

impl CampaignNode {
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// The nodes of a campaign.
pub(crate) struct Fleet {
    pub(crate) server: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) database: String,
    /// More arguments of `postrider serve`.
    pub(crate) arguments: Vec<String>,
    pub(crate) nodes: Vec<CampaignNode>,
    client: reqwest::Client,
}

impl Fleet {
    pub(crate) fn new(
        server: PathBuf,
        folder: &Path,
        database: String,
        arguments: Vec<String>,
        nodes: usize,
    ) -> anyhow::Result<Self> {
        let node = |number: usize| {
            anyhow::Ok(CampaignNode {
                name: format!("node-{number}"),
                port: free_port()?,
                process: None,
            })
        };
        Ok(Self {
            server,
            folder: folder.to_owned(),
            database,
            arguments,
            nodes: (1..=nodes).map(node).collect::<anyhow::Result<_>>()?,
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .build()?,
        })
    }

    /// Starts a node, and waits until it accepts events.
    pub(crate) async fn start(&mut self, number: usize) -> anyhow::Result<()> {
        let node = &self.nodes[number];
        let log = self.folder.join(format!("{}.log", node.name));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.server);
        command
            .current_dir(&self.folder)
            .args(["serve", "--allow-network", "127.0.0.0/8"])
            .args(["--listen", &format!("127.0.0.1:{}", node.port)])
            .args(["--node-name", &node.name])
            .args(&self.arguments)
            .env("POSTRIDER_DATABASE_URL", &self.database)
            .env("POSTRIDER_API_TOKEN", TOKEN)
            .stdout(Stdio::null())
            .stderr(log);
        self.nodes[number].process = Some(Process::spawn(&mut command)?);
        let began = now();
        let url = format!("{}/readyz", self.nodes[number].base());
        while now().saturating_sub(began) < START {
            let ready = self.client.get(&url).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(process) = &mut self.nodes[number].process
                && let Some(status) = process.0.try_wait()?
            {
                bail!("{} ended at its start: {status}", self.nodes[number].name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} is not ready after {START:?}", self.nodes[number].name)
    }

    pub(crate) fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        match &self.nodes[number].process {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Waits until a node has ended.
    pub(crate) async fn end(&mut self, number: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.nodes[number].process.take() {
            process.end().await?;
        }
        Ok(())
    }

    /// Calls the API of a node.
    pub(crate) async fn call(
        &self,
        number: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let url = format!("{}/api/v1{path}", self.nodes[number].base());
        let mut request = self.client.request(method, &url).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await.with_context(|| url.clone())?;
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{url}: {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

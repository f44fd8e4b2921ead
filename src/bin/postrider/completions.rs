//! `postrider completions`: what a shell needs to complete this command.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output::emit;

/// Print what a shell needs to complete this command.
///
/// bash: `postrider completions bash > ~/.local/share/bash-completion/completions/postrider`;
/// zsh: `… zsh > ~/.zfunc/_postrider`; fish: `… fish > ~/.config/fish/completions/postrider.fish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Made in memory first: who reads it may stop early.
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut crate::Cli::command(),
            "postrider",
            &mut script,
        );
        emit(String::from_utf8_lossy(&script).trim_end());
        Ok(())
    }
}

//! `postrider completions`: shell completion scripts.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output::emit;

/// Generate shell completions.
///
/// bash: `postrider completions bash > ~/.local/share/bash-completion/completions/postrider`;
/// zsh: `… zsh > ~/.zfunc/_postrider`; fish: `… fish > ~/.config/fish/completions/postrider.fish`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to generate completions for
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Written to memory first: clap panics if the reader closes the pipe early.
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

//! `postrider keys`: what secrets are encrypted with in the database.

use anyhow::Context as _;
use clap::Subcommand;
use postrider::domain::secret::EncryptionKey;

use crate::settings::{DatabaseArgs, Hidden, Settings};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Print a fresh key for `encryption_keys`.
    Generate,
    /// Rewrite everything under the first of `encryption_keys`, while servers run.
    ///
    /// To change the key: put the new one before the old one in the settings of every server and
    /// restart them, run this, then take the old one away.
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The first one encrypts, all decrypt. Better given by the environment or the settings file.
    #[arg(
        long,
        env = "POSTRIDER_ENCRYPTION_KEYS",
        value_name = "KEYS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    encryption_keys: Option<Vec<Hidden>>,
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Generate => println!("{}", EncryptionKey::generate().reveal()),
            Self::Rotate(rotate) => rotate.run()?,
        }
        Ok(())
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<()> {
        let keys = Settings { encryption_keys: self.encryption_keys, ..Settings::default() };
        let settings = keys.over(self.database.settings()?)?;
        let config = settings.engine()?;
        let key = config.encryption_keys.first().context(
            "no key: set POSTRIDER_ENCRYPTION_KEYS, or name the server's settings file by --config",
        )?;
        let id = key.id();
        let told = |values| eprint!("\r{values} values rewritten");
        let values = postrider::rotate_keys(&settings.database()?, &config, told)?;
        eprintln!();
        println!("everything is encrypted with the key {id}; {values} values were rewritten");
        Ok(())
    }
}

//! `postrider keys`: what secrets are encrypted with in the database.

use anyhow::Context as _;
use clap::Subcommand;
use postrider::domain::secret::EncryptionKey;
use serde_json::json;

use crate::output::emit;
use crate::progress::progress;
use crate::settings::{DatabaseArgs, Hidden, Settings};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Print a fresh key for `encryption_keys`.
    Generate(Generate),
    /// Rewrite everything under the first of `encryption_keys`, while servers run.
    ///
    /// To change the key: put the new one before the old one in the settings of every server and
    /// restart them, run this, then take the old one away.
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Print JSON
    #[arg(long)]
    json: bool,
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

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Generate(generate) => {
                let key = EncryptionKey::generate().reveal().to_string();
                emit(&if generate.json {
                    json!({ "key": key }).to_string()
                } else {
                    key
                });
            }
            Self::Rotate(rotate) => rotate.run()?,
        }
        Ok(())
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<()> {
        let keys = Settings {
            encryption_keys: self.encryption_keys,
            ..Settings::default()
        };
        let settings = keys.over(self.database.settings()?)?;
        let config = settings.engine()?;
        let key = config.encryption_keys.first().context(
            "no key: set POSTRIDER_ENCRYPTION_KEYS, or name the server's settings file by --config",
        )?;
        let id = key.id();
        let bar = progress(None, "rewriting");
        let told = |values| bar.set_message(format!("{values} values rewritten"));
        let values = postrider::rotate_keys(&settings.database()?, &config, told)?;
        bar.finish_and_clear();
        let human =
            format!("everything is encrypted with the key {id}; {values} values were rewritten");
        emit(&if self.json {
            json!({"key": id, "rewritten": values}).to_string()
        } else {
            human
        });
        Ok(())
    }
}

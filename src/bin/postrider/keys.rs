//! `postrider keys`: the keys that encrypt secrets in the database.

use anyhow::Context as _;
use clap::Subcommand;
use postrider::domain::secret::EncryptionKey;
use serde_json::json;

use crate::output::emit;
use crate::progress::progress;
use crate::settings::{DatabaseArgs, Hidden, ServerSettings};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Generate a key for `encryption_keys` and print it.
    Generate(GenerateKey),
    /// Re-encrypt all secrets with the first of `encryption_keys`; servers may keep running.
    ///
    /// To replace a key: put the new key before the old one in the settings of every server and
    /// restart them, run this command, then remove the old key from the settings.
    Rotate(RotateKeys),
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateKey {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RotateKeys {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Encryption keys (prk_…, comma-separated); the first encrypts, all decrypt. Prefer the
    /// environment or the settings file over the flag
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

impl KeysCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Generate(generate) => {
                let key = EncryptionKey::generate(&postrider::ports::OsRandom)
                    .reveal()
                    .to_string();
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

impl RotateKeys {
    fn run(self) -> anyhow::Result<()> {
        let keys = ServerSettings {
            encryption_keys: self.encryption_keys,
            ..ServerSettings::default()
        };
        let settings = keys.over(self.database.settings()?)?;
        let config = settings.engine()?;
        let key = config.encryption_keys.first().context(
            "no encryption key: set POSTRIDER_ENCRYPTION_KEYS, or pass the server's settings file with --config",
        )?;
        let id = key.id();
        let bar = progress(None, "re-encrypting");
        let values = postrider::schema::rotate_keys(&settings.database()?, &config, |values| {
            bar.set_message(format!("{values} values re-encrypted"));
        })?;
        bar.finish_and_clear();
        let human =
            format!("all secrets are encrypted with key {id}; {values} values were re-encrypted");
        emit(&if self.json {
            json!({"key": id, "rewritten": values}).to_string()
        } else {
            human
        });
        Ok(())
    }
}

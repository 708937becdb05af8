//! The command line.

mod admin;
mod alerts;
mod bundles;
mod consent;
mod incident;
mod persona;
mod policy;
mod recipes;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::domain::{BundleId, DenialCode, IdFault, PersonaId, RuntimeId, Secret, Timestamp};
use crate::ledger::Outcome;
use crate::sandbox::ProfileName;
use crate::sandbox::preset::PresetName;

pub use admin::{AdminCommand, AdminPersonaCommand, AutomationCommand, GrantArgs, LeaseCommand};
pub use alerts::AlertsCommand;
pub use bundles::{BundlesCommand, ManifestCommand};
pub use consent::{ConsentCommand, SayArgs};
pub use incident::{ExportArgs as IncidentExportArgs, IncidentCommand};
pub use persona::{FeedbackCommand, OptArgs, PersonaCommand, ProposeArgs, ReviewCommand, TokenCommand};
pub use policy::{PolicyCommand, SimulateArgs};
pub use recipes::{KeygenArgs, RecipesCommand, SignArgs};

/// Talk to the egress gateway of this host, and read its ledger.
#[derive(Debug, Parser)]
#[command(name = "arw-cli", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 ok, 1 refused or failed, 2 wrong usage.")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Guardrail Gateway: decides and records every outbound connection of this host's automations.
///
/// Without options it runs on embedded defaults and, while no persona is configured, shows itself with a
/// demonstration persona and origin. Settings come from a file and from ARW_* variables; docs/configuration.md
/// lists them.
#[derive(Debug, Parser)]
#[command(name = "arw-server", version)]
pub struct ServerArguments {
    /// Settings file; must exist.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder that holds `personas/`.
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Folder for the ledger, keys and sockets.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Log filter, such as `info` or `arw=debug`.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Check settings and personas, report every fault, and exit without starting anything.
    #[arg(long)]
    pub check: bool,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where the daemon answers: `unix:/path` or `http://127.0.0.1:8091` [default: the Unix socket in
    /// the state folder if it is there, else http://127.0.0.1:8091]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub base: Option<String>,
    /// The admin token, needed on TCP [default: ARW_ADMIN_TOKEN]; better there or in a file than here,
    /// where `ps` shows it
    #[arg(long, global = true, value_name = "TOKEN", value_parser = token, help_heading = "Global options")]
    pub admin_token: Option<Secret<String>>,
    /// A file that holds the admin token and nothing else
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with = "admin_token",
        help_heading = "Global options"
    )]
    pub admin_token_file: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// The daemon's state folder, with its socket and ledger [default: ARW_STATE_DIR, or as the daemon
    /// finds it]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Global options")]
    pub state_dir: Option<PathBuf>,
}

fn token(text: &str) -> Result<Secret<String>, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show gateway, ledger, personas and open tunnels
    Status,
    /// Ask whether the daemon runs and may let anything leave
    Health,
    /// Show how the daemon itself is confined, measured now
    Confinement,
    /// Read, search, verify and export the egress ledger, without the daemon
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Ask the gate
    #[command(subcommand)]
    Egress(EgressCommand),
    /// Personas: the identities that traffic leaves as
    #[command(subcommand)]
    Persona(PersonaCommand),
    /// What may leave, and who may do what: checked, asked, tested
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What people were told and agreed to
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// Automations as signed folders
    #[command(subcommand)]
    Recipes(RecipesCommand),
    /// Runtimes
    #[command(subcommand)]
    Runtime(RuntimeCommand),
    /// What only an administrator does: leases
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Automations, and the kill switch over all of them
    #[command(subcommand)]
    Automation(AutomationCommand),
    /// What is known of an incident, in one archive
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// What a person should know
    #[command(subcommand)]
    Alerts(AlertsCommand),
    /// Run one command in a sandbox whose only way out is a gateway of its own; needs no daemon
    Run(RunArgs),
    /// Sandboxes
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Have the daemon read its personas, manifest and policy again
    Reload {
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: Option<String>,
    },
    /// Show what happens, as CloudEvents
    Events(EventsArgs),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page, or write one per command and the daemon's into a folder
    Man {
        /// The folder
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Whose traffic the command's is; `demo` has an origin of its own while nothing is configured
    #[arg(long, value_parser = persona)]
    pub persona: PersonaId,
    /// Its limits; one above eco needs a justification
    #[arg(long, default_value = "eco", value_parser = PresetName::parse)]
    pub preset: PresetName,
    /// Why it needs a preset above eco
    #[arg(long, value_name = "TEXT")]
    pub justification: Option<String>,
    /// Its walls: strict, standard, compat or gpu
    #[arg(long, default_value = "standard")]
    pub profile: ProfileName,
    /// A folder that it may read and write, at the same place inside
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Vec<PathBuf>,
    /// A folder that it may read
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub read_only: Vec<PathBuf>,
    /// Where it starts, as seen inside [default: the first workspace, or its home]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// A variable of its environment, which is otherwise made from nothing
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Print what is enforced and where the ledger is, on standard error
    #[arg(long)]
    pub report: bool,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `sandbox …`.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Try to escape from a real sandbox, and show what held
    Check {
        /// The profile: strict, standard, compat or gpu
        #[arg(long, default_value = "standard")]
        profile: ProfileName,
    },
}

/// Where the ledger lies.
#[derive(Debug, Clone, Args)]
pub struct LedgerDir {
    /// The ledger's folder [default: `ledger` in the state folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// `ledger …`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Show the newest lines
    Tail {
        /// Where the ledger lies.
        #[command(flatten)]
        dir: LedgerDir,
        /// Go on with new lines as they come
        #[arg(short, long)]
        follow: bool,
        /// How many lines
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
        lines: u32,
    },
    /// Show the lines that match
    Query {
        /// Where the ledger lies.
        #[command(flatten)]
        dir: LedgerDir,
        /// What to match.
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many lines, the newest of them
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
    },
    /// Count decisions, bytes, hosts and reasons
    Stats {
        /// Where the ledger lies.
        #[command(flatten)]
        dir: LedgerDir,
        /// What to match.
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Check every line, the tree over them and its signatures
    Verify {
        /// The ledger's folder [default: `ledger` in the state folder]
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// Prove that one line is in the log
    Prove {
        /// Its sequence number
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        seq: u64,
        /// Where the ledger lies.
        #[command(flatten)]
        dir: LedgerDir,
        /// Write the proof to a file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
    },
    /// Write the lines that match in another form
    Export {
        /// Where the ledger lies.
        #[command(flatten)]
        dir: LedgerDir,
        /// Which form
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// What to match.
        #[command(flatten)]
        filter: FilterArgs,
        /// Real names and addresses instead of pseudonyms
        #[arg(long)]
        raw: bool,
        /// Write to a file, which must not be there yet
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
    },
}

/// Forms of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a heading
    Csv,
    /// JSON lines
    Jsonl,
    /// OCSF Network Activity, as JSON lines
    Ocsf,
}

/// Conditions on lines; all of them must hold.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Only this persona's
    #[arg(long, value_parser = persona)]
    pub persona: Option<PersonaId>,
    /// Only this runtime's, in any of its runs
    #[arg(long, value_parser = runtime_id)]
    pub runtime: Option<RuntimeId>,
    /// Only this host, or `*.example.com` for every name below it
    #[arg(long)]
    pub host: Option<String>,
    /// Only this decision
    #[arg(long, value_enum)]
    pub decision: Option<DecisionArg>,
    /// Only denials with this code
    #[arg(long, value_parser = denial_code)]
    pub code: Option<DenialCode>,
    /// Only from this moment on: RFC 3339, a day, or an age such as `90m`, `24h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// Only before this moment
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
}

/// A decision on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecisionArg {
    /// Granted
    Allow,
    /// Denied
    Deny,
    /// Let through in report mode; enforcement would have denied
    #[value(name = "would_deny", alias = "would-deny")]
    WouldDeny,
}

impl From<DecisionArg> for Outcome {
    fn from(arg: DecisionArg) -> Self {
        match arg {
            DecisionArg::Allow => Self::Allow,
            DecisionArg::Deny => Self::Deny,
            DecisionArg::WouldDeny => Self::WouldDeny,
        }
    }
}

/// `egress …`.
#[derive(Debug, Subcommand)]
pub enum EgressCommand {
    /// Ask what the gate would decide; nothing leaves, and the question is recorded
    Preview {
        /// `https://host`, `http://host/path` or `tcp://host:port`
        url: String,
        /// As whom
        #[arg(long, value_parser = persona)]
        persona: PersonaId,
        /// Method, for plain HTTP [default: GET]
        #[arg(long)]
        method: Option<String>,
    },
}

/// `runtime …`.
#[derive(Debug, Subcommand)]
pub enum RuntimeCommand {
    /// Every runtime: state, health, limits, use
    List,
    /// The same, drawn anew every two seconds
    Top,
    /// One runtime in full
    Status {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
    },
    /// Start it, and what it depends on
    Start {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
        /// Until it is ready; exit 1 if it will not be
        #[arg(long)]
        wait: bool,
    },
    /// End it; it stays so until somebody starts it
    Stop {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
        /// Until nothing of it lives
        #[arg(long)]
        wait: bool,
    },
    /// End it and start it again
    Restart {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
        /// Until it is ready again; exit 1 if it will not be
        #[arg(long)]
        wait: bool,
    },
    /// Give its restart budget back, and start it if it was quarantined
    Restore {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
        /// Until it is ready; exit 1 if it will not be
        #[arg(long)]
        wait: bool,
    },
    /// Hold its processes still
    Freeze {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
    },
    /// Let them go on
    Thaw {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
    },
    /// What it wrote
    Logs(LogArgs),
    /// Execute one more command inside it, and exit with its code
    Exec(ExecArgs),
    /// What holds of its confinement and limits, as measured at its last launch
    Report {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
    },
    /// How its runs ended, with their last words
    Deaths {
        /// Its id
        #[arg(value_parser = runtime)]
        id: RuntimeId,
        /// At most so many, the newest
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
    },
    /// What runtimes are made of: signed, in revisions
    #[command(subcommand)]
    Bundles(BundlesCommand),
}

/// `runtime logs`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Its id
    #[arg(value_parser = runtime)]
    pub id: RuntimeId,
    /// Stay, and show lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Start with the last so many lines
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    pub tail: u32,
}

/// `runtime exec`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: that of the command, or 128 and the number of the signal that ended it; 124 when \
                        its time was over; 137 when the runtime ended with it; 1 when it was not executed."
)]
pub struct ExecArgs {
    /// Its id
    #[arg(value_parser = runtime)]
    pub id: RuntimeId,
    /// Seconds after which the command is killed
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    pub timeout: u16,
    /// Show what it says on a terminal as it is, control characters too
    #[arg(long)]
    pub raw: bool,
    /// The command and its arguments; without input, and with the variables of the runtime's own command
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Only types that start with this, such as `egress.`
    #[arg(long)]
    pub prefix: Option<String>,
    /// Stay, and come back when the connection breaks
    #[arg(short, long)]
    pub follow: bool,
    /// Start with so many past events
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub replay: u32,
}

fn persona(text: &str) -> Result<PersonaId, IdFault> {
    PersonaId::parse(text)
}

fn runtime(text: &str) -> Result<RuntimeId, IdFault> {
    RuntimeId::parse(text)
}

fn bundle(text: &str) -> Result<BundleId, IdFault> {
    BundleId::parse(text)
}

fn runtime_id(text: &str) -> Result<RuntimeId, IdFault> {
    RuntimeId::parse(text)
}

/// What the record says of a reason that nobody gave.
const NO_REASON: &str = "no reason given";
/// Longest remark, in bytes: a paragraph.
const MAX_REMARK: usize = 2_048;

/// A reason that goes into a record: one line, not blank.
fn remark(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > MAX_REMARK || text.contains(char::is_control) {
        return Err(format!("it is one line of at most {MAX_REMARK} characters"));
    }
    Ok(text.trim().to_owned())
}

fn denial_code(text: &str) -> Result<DenialCode, String> {
    DenialCode::from_code(text).ok_or_else(|| {
        let known: Vec<&str> = DenialCode::ALL.iter().map(|code| code.code()).collect();
        format!("known codes are {}", known.join(", "))
    })
}

/// RFC 3339, `YYYY-MM-DD` (UTC), or an age: `s`, `m`, `h`, `d`, `w` before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    use crate::domain::{Clock, SystemClock};
    moment_before(text, SystemClock.now())
}

fn moment_before(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    if text.len() == 10
        && let Ok(time) = Timestamp::parse(&format!("{text}T00:00:00Z"))
    {
        return Ok(time);
    }
    let fault = || format!("`{text}` is neither a time (2026-11-22T10:31:21Z), nor a day, nor an age (90m, 24h, 7d)");
    let unit = text.chars().next_back().ok_or_else(fault)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| fault())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(fault()),
    };
    if number < 0 {
        return Err(fault());
    }
    let micros = number.checked_mul(seconds * 1_000_000).ok_or_else(fault)?;
    now.unix_micros().checked_sub(micros).map(Timestamp::from_unix_micros).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_go_anywhere_and_the_token_does_not_print() {
        let line = ["arw-cli", "ledger", "--json", "tail", "-f", "-n", "3", "--admin-token", "hunter2", "--dir", "/x"];
        let cli = Cli::try_parse_from(line).expect("parses");
        assert!(cli.global.json);
        assert!(!format!("{cli:?}").contains("hunter2"));
        assert!(matches!(
            cli.command,
            Command::Ledger(LedgerCommand::Tail { follow: true, lines: 3, dir: LedgerDir { dir: Some(_) } })
        ));
    }

    #[test]
    fn wrong_usage_is_refused_when_parsed() {
        for line in [
            &["arw-cli", "ledger", "tail", "-n", "-1"][..],
            &["arw-cli", "ledger", "prove", "0"],
            &["arw-cli", "ledger", "export"],
            &["arw-cli", "ledger", "export", "--format", "parquet"],
            &["arw-cli", "ledger", "query", "--since", "yesterday"],
            &["arw-cli", "ledger", "query", "--code", "nope"],
            &["arw-cli", "ledger", "query", "--decision", "maybe"],
            &["arw-cli", "egress", "preview", "https://example.com"],
            &["arw-cli", "egress", "preview", "https://example.com", "--persona", "Not An Id"],
            &["arw-cli", "persona", "token", "new"],
            &["arw-cli", "persona", "check"],
            &["arw-cli", "events", "--replay", "5000"],
            &["arw-cli", "frobnicate"],
            &["arw-cli", "consent", "acknowledge", "local-model"],
            &["arw-cli", "consent", "acknowledge", "local-model", "--note", " "],
            &["arw-cli", "consent", "acknowledge", "../model", "--note", "x"],
            &["arw-cli", "admin", "persona", "grant", "demo", "--capability", "egress:proxy", "--ttl", "8h"],
            &[
                "arw-cli",
                "admin",
                "persona",
                "grant",
                "demo",
                "--capability",
                "x",
                "--ttl",
                "8",
                "--justification",
                "x",
            ],
            &[
                "arw-cli",
                "admin",
                "persona",
                "grant",
                "../demo",
                "--capability",
                "x",
                "--ttl",
                "8h",
                "--justification",
                "x",
            ],
            &["arw-cli", "admin", "lease", "revoke", "../x"],
            &["arw-cli", "incident", "export", "--persona", "demo"],
            &["arw-cli", "incident", "export", "--persona", "demo", "--since", "yesterday"],
            &["arw-cli", "automation", "shutdown"],
            &["arw-cli", "automation", "shutdown", "--reason", " "],
            &["arw-cli", "automation", "shutdown", "--reason", "x", "--grace", "soon"],
            &["arw-cli", "automation", "rearm"],
            &["arw-cli", "alerts", "ack", "alert-1"],
            &["arw-cli", "alerts", "ack", "../x", "--note", "x"],
            &["arw-cli", "alerts", "ack", "alert-1", "--note", " "],
            &["arw-cli", "alerts", "test"],
            &["arw-cli", "alerts", "test", "A route"],
            &["arw-cli", "recipes", "install"],
            &["arw-cli", "recipes", "run", "../x", "--preview"],
            &["arw-cli", "recipes", "sign", "x"],
            &["arw-cli", "recipes", "keygen", "a+b", "--key", "x"],
            &["arw-cli", "recipes", "keygen", "a", "--key", "x", "--signs", "everything"],
            &["arw-cli", "runtime", "bundles", "rollback", "a", "--to", "1.0", "--note", "x"],
        ] {
            let error = Cli::try_parse_from(line).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn a_runtime_is_asked_by_its_id_and_everything_behind_the_dashes_is_the_commands() {
        let runtime = |line: &[&str]| match Cli::try_parse_from([&["arw-cli", "runtime"], line].concat()) {
            Ok(Cli { command: Command::Runtime(command), .. }) => command,
            other => panic!("{line:?}: {other:?}"),
        };
        assert!(matches!(runtime(&["start", "model", "--wait"]), RuntimeCommand::Start { wait: true, .. }));
        assert!(matches!(runtime(&["stop", "model"]), RuntimeCommand::Stop { wait: false, .. }));
        assert!(matches!(runtime(&["deaths", "model"]), RuntimeCommand::Deaths { limit: 5, .. }));
        let RuntimeCommand::Logs(logs) = runtime(&["logs", "-f", "model", "--tail", "0"]) else { panic!("logs") };
        assert!(logs.follow && logs.tail == 0);
        let exec = ["exec", "model.v2", "--timeout", "3600", "--", "sh", "-c", "--json", "--timeout", "--"];
        let RuntimeCommand::Exec(exec) = runtime(&exec) else { panic!("exec") };
        assert_eq!((exec.id.as_str(), exec.timeout, exec.raw), ("model.v2", 3_600, false));
        assert_eq!(exec.command, ["sh", "-c", "--json", "--timeout", "--"]);
        let RuntimeCommand::Exec(exec) = runtime(&["exec", "--raw", "model", "--", "true"]) else { panic!("exec") };
        assert!(exec.raw && exec.timeout == 60);
        for line in [
            &["exec", "model"][..],
            &["exec", "model", "true"],
            &["exec", "model", "--"],
            &["exec", "--", "true"],
            &["exec", "model", "--timeout", "0", "--", "true"],
            &["exec", "model", "--timeout", "3601", "--", "true"],
            &["exec", "../model", "--", "true"],
            &["start"],
            &["start", "Model"],
            &["start", "a", "b"],
            &["freeze", "model", "--wait"],
            &["logs", "model", "--tail", "5001"],
            &["deaths", "model", "--limit", "0"],
            &["frob", "model"],
        ] {
            let error = Cli::try_parse_from([&["arw-cli", "runtime"], line].concat()).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn moments_are_times_days_or_ages() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").expect("valid");
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05.000000Z"),
            ("2026-01-02", "2026-01-02T00:00:00.000000Z"),
            ("90m", "2026-11-22T10:30:00.000000Z"),
            ("7d", "2026-11-15T12:00:00.000000Z"),
            ("0s", "2026-11-22T12:00:00.000000Z"),
        ] {
            assert_eq!(moment_before(text, now).map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for bad in ["", "m", "-5m", "1.5h", "5y", "5é", "2026-13-01", "99999999999999w"] {
            assert!(moment_before(bad, now).is_err(), "{bad}");
        }
    }
}

//! The instructions in `deploy/`, carried out literally.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const UNIT: &str = include_str!("../deploy/systemd/jwtmesh.service");
const NATS: &str = include_str!("../deploy/nats/README.md");

/// The `chmod -R` command of a text, for `folder` instead of /etc/jwtmesh.
fn chmod(text: &str, folder: &Path) -> String {
    let at = text
        .find("chmod -R ")
        .expect("the text has the command that makes the files readable");
    let line = text[at..].lines().next().expect("the command has a line");
    assert!(line.ends_with(" /etc/jwtmesh"), "{line}");
    line.replace("/etc/jwtmesh", &folder.display().to_string())
}

#[test]
fn the_chmod_makes_the_files_readable_for_the_services_group_and_for_no_other_user() {
    for text in [UNIT, NATS] {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = folder.path().join("secrets");
        let creds = secrets.join("fra.creds");
        fs::create_dir(&secrets).expect("made");
        fs::write(&creds, "").expect("written");
        // The modes that nsc leaves.
        for (path, mode) in [(folder.path(), 0o755), (&secrets, 0o700), (&creds, 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
        }
        let typed = chmod(text, folder.path());
        let done = Command::new("sh")
            .arg("-c")
            .arg(&typed)
            .status()
            .expect("there is a sh");
        assert!(done.success(), "{typed}");
        for (path, wanted) in [(folder.path(), 0o750), (&secrets, 0o750), (&creds, 0o640)] {
            let mode = fs::metadata(path).expect("there").permissions().mode() & 0o777;
            assert_eq!(mode, wanted, "{} after {typed}: {mode:o}", path.display());
        }
    }
    assert!(UNIT.contains("\nConfigurationDirectoryMode=0750\n"));
}

#[test]
fn a_failed_node_is_restarted_until_the_cause_is_gone() {
    let (unit, service) = UNIT.split_once("\n[Service]\n").expect("two sections");
    assert!(
        unit.contains("\nStartLimitIntervalSec=0\n"),
        "StartLimitIntervalSec=0 belongs to [Unit]"
    );
    for line in ["Restart=on-failure", "RestartSec=2", "RestartPreventExitStatus=2"] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
}

//! How a mesh comes to be: of whom, from where, and what keeps it from being formed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::mesh::{NAMES, Nodes, status};
use crate::support::mint::{Account, Operator};
use crate::support::node::{Node, jwtmesh};
use crate::support::process::{eventually, free_port};

#[test]
fn a_node_with_accounts_becomes_the_first_member_and_nothing_is_exported() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::unformed(3, &operator.token());
    let status_before = status(&mesh.nodes[0]).expect("it answers");
    assert_eq!(status_before["ready"], false, "an empty member does not serve");
    for path in ["/jwt/v1/accounts", "/jwt/v1/operator", "/jwt/v1/pack?max=1"] {
        assert_eq!(mesh.nodes[0].get(path).status, 503, "{path}");
    }
    for asked in [["account", "list"], ["operator", "show"]] {
        let done = mesh.nodes[0].cli(&asked);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(5) && said.contains("not a member"), "{said}");
    }
    // What the first node would be had it run alone until now: the same file with one node and no [peer].
    let whole = std::fs::read_to_string(mesh.folder.path().join("cluster.toml")).unwrap();
    let (head, nodes) = whole.split_once("[peer]").unwrap();
    let first = nodes
        .split("[[node]]")
        .nth(1)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("peer"));
    let alone = format!("{head}[[node]]{}", first.collect::<Vec<_>>().join("\n"));
    let put = |text: &str| std::fs::write(mesh.folder.path().join("cluster.toml"), text).unwrap();
    mesh.nodes[0].kill();
    std::fs::remove_dir_all(mesh.folder.path().join("n1")).unwrap();
    put(&alone);
    mesh.nodes[0].start_again();
    let account = Account::new("A");
    let token = operator.account(&account);
    mesh.nodes[0].put(&account, &token);
    mesh.nodes[0].kill();
    put(&whole);
    mesh.nodes[0].start_again();
    assert_eq!(mesh.nodes[0].get_account(&account.id()).text(), token);
    let formed = mesh.nodes[0].cli_json(&["member", "bootstrap"]);
    assert_eq!(formed["outcome"], "formed", "{formed}");
    mesh.wait_until_served(&account, &token);
    eventually("the new members answer the probe", || {
        let probed = mesh.nodes.iter().map(|node| node.get("/jwt/v1/accounts").status);
        probed.into_iter().all(|status| status == 200).then_some(())
    });
}

/// The node that forms the mesh dies between writing its identity and forming it.
#[test]
fn g12_a_bootstrap_that_was_interrupted_is_repeated() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::unformed(3, &operator.token());
    mesh.nodes[0].kill();
    let file = mesh.folder.path().join("n1/identity.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut identity: serde_json::Value = serde_json::from_str(&text).unwrap();
    identity["mesh"] = identity["store"].clone();
    identity["node_id"] = 1.into();
    identity["formed"] = true.into();
    std::fs::write(&file, identity.to_string()).unwrap();
    mesh.nodes[0].start_again();
    let mesh = mesh.form();
    let account = Account::new("A");
    let token = operator.account(&account);
    mesh.nodes[2].put(&account, &token);
    mesh.wait_until_served(&account, &token);
}

/// One mesh is formed of all listed nodes or not at all, and never of another mesh's.
#[test]
fn a_mesh_is_not_formed_of_nodes_that_do_not_answer_or_belong_to_another_one() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::unformed(3, &operator.token());
    mesh.nodes[2].kill();
    let refused = mesh.nodes[0].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("\"n3\"") && said.contains("does not answer"), "{said}");
    assert!(status(&mesh.nodes[0]).expect("it answers")["cluster_id"].is_null());

    mesh.nodes[2].start_again();
    // Its certificate is of another authority.
    let foreign = tempfile::tempdir().unwrap();
    let other = crate::support::tls::Authority::new(foreign.path(), "other");
    other.issue_for_node("n3");
    for file in ["n3.pem", "n3.key"] {
        std::fs::copy(foreign.path().join(file), mesh.folder.path().join(file)).unwrap();
    }
    let refused = mesh.nodes[2].refused_start();
    assert!(
        refused.contains("n3.pem") && refused.contains("mesh-ca.pem"),
        "{refused}"
    );
    // It has another node's certificate: at the start, which is refused, and later, when the others refuse it.
    let put = |from: &str| {
        for (from, to) in [(format!("{from}.pem"), "n3.pem"), (format!("{from}.key"), "n3.key")] {
            std::fs::copy(mesh.folder.path().join(from), mesh.folder.path().join(to)).unwrap();
        }
    };
    mesh.authority.issue_for_node("n2");
    put("n2");
    let refused = mesh.nodes[2].refused_start();
    assert!(refused.contains("\"n2\"") && refused.contains("\"n3\""), "{refused}");
    mesh.authority.issue_for_node("n3");
    mesh.nodes[2].start_again();
    let loaded = |mesh: &Nodes| mesh.nodes[2].log().matches("certificate loaded").count();
    let before = loaded(&mesh);
    put("n2");
    eventually("it has taken the certificate", || {
        (loaded(&mesh) > before).then_some(())
    });
    let refused = mesh.nodes[0].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("n2") && said.contains("n3"), "both names: {said}");
    mesh.authority.issue_for_node("n3");
    mesh.nodes[2].start_again();
    let formed = mesh.nodes[0].cli_json(&["member", "bootstrap"]);
    assert_eq!(formed["outcome"], "formed", "{formed}");
}

/// With timers that are shorter than a message takes they would elect leaders without end.
#[test]
fn nodes_that_are_too_far_apart_for_their_timers_do_not_form_a_mesh() {
    let operator = Operator::new("O");
    for (timing, one_way, remedy) in [("lan", 40, "set timing = \"wan\""), ("wan", 200, "farther apart")] {
        let mesh = Nodes::apart(3, &operator.token(), timing, Duration::from_millis(one_way));
        let done = mesh.nodes[0].cli(&["member", "bootstrap"]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(remedy), "{said}");
    }
}

/// Two administrators, or a script that does it on each node.
#[test]
fn g1_a_mesh_that_two_nodes_form_at_once_is_one_mesh() {
    let operator = Operator::new("O");
    for _ in 0..5 {
        let mesh = Nodes::unformed(3, &operator.token());
        let forming = [1, 2, 0].map(|node| {
            let node = &mesh.nodes[node];
            move || node.cli(&["member", "bootstrap"])
        });
        let said = std::thread::scope(|scope| {
            let forming = forming.map(|form| scope.spawn(form));
            forming.map(|formed| String::from_utf8_lossy(&formed.join().unwrap().stderr).into_owned())
        });
        let meshes: BTreeSet<String> = mesh
            .nodes
            .iter()
            .filter_map(|node| {
                status(node).expect("it answers")["cluster_id"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect();
        assert!(meshes.len() < 2, "{meshes:?}: {said:?}");
        // The node that formed it, if one did, goes on; else any does.
        let formed = mesh.nodes.iter().any(|node| {
            let again = node.cli(&["member", "bootstrap"]);
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            assert!(again.status.success() || said.contains("repeat this"), "{said}");
            again.status.success()
        });
        assert!(formed);
        mesh.wait_until_writable();
    }
}

/// It looks like one that was never in a mesh, but for what the members write to it.
#[test]
fn a_member_that_has_lost_its_data_says_so_itself() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let lost = (mesh.leader() + 1) % 3;
    mesh.nodes[lost].terminate();
    let folder = mesh.folder.path().join(NAMES[lost]);
    let away = folder.with_extension("away");
    std::fs::rename(&folder, &away).unwrap();
    mesh.nodes[lost].start_again();
    let problems = |node: &Node| Some(status(node)?["problems"].to_string());
    eventually("it says so", || {
        problems(&mesh.nodes[lost])?.contains("has lost its data").then_some(())
    });
    assert!(!problems(&mesh.nodes[lost]).unwrap().contains("bootstrap"));
    let log = mesh.nodes[lost].log();
    assert_eq!(log.matches("has lost its data").count(), 1, "{log}");
    let probed = mesh.nodes[lost].get("/jwt/v1/accounts");
    assert!(
        probed.status == 503 && probed.text().contains("has lost its data"),
        "{}",
        probed.text()
    );
    let refused = mesh.nodes[lost].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("has lost its data"),
        "{said}"
    );
    let of_leader = problems(&mesh.nodes[mesh.leader_of(&[(lost + 1) % 3, (lost + 2) % 3])]).unwrap();
    assert!(
        of_leader.contains("has lost its data") && !of_leader.contains("takes no entries"),
        "{of_leader}"
    );
    let account = Account::new("A");
    let refused = mesh.nodes[lost].post_account(&account.id(), &operator.account(&account));
    assert!(
        refused.status == 503 && refused.text().contains("has lost its data"),
        "{}",
        refused.text()
    );
    // It is taken back with what it had.
    mesh.nodes[lost].terminate();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    mesh.nodes[lost].start_again();
    let token = operator.account(&account);
    mesh.nodes[lost].put(&account, &token);
    mesh.wait_until_served(&account, &token);
}

/// Those of a mesh were often made on one day, and all of its nodes may start after the day on which they expire.
#[test]
fn g4_a_node_whose_peer_certificate_has_expired_starts_and_serves_lookups() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let token = operator.account(&account);
    mesh.nodes[0].put(&account, &token);
    mesh.wait_until_served(&account, &token);
    for (name, node) in NAMES.iter().zip(&mut mesh.nodes) {
        node.terminate();
        mesh.authority.issue_with(name, |params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName((*name).try_into().unwrap())];
            params.not_before = rcgen::date_time_ymd(2023, 1, 1);
            params.not_after = rcgen::date_time_ymd(2024, 1, 1);
        });
    }
    for node in &mut mesh.nodes {
        node.start_again();
        assert_eq!(node.get_account(&account.id()).text(), token);
        let log = node.log();
        assert!(
            log.contains("the certificate has expired") && log.contains(".pem"),
            "{log}"
        );
    }
    for name in &NAMES[..3] {
        mesh.authority.issue_for_node(name);
    }
    mesh.wait_until_writable();
}

/// What a node says of a mesh that it has read an older cluster.toml of would be taken for "nothing is to be done".
#[test]
fn a_bootstrap_with_another_file_than_the_node_has_read_changes_nothing_and_says_so() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let file = mesh.folder.path().join("cluster.toml");
    let read = std::fs::read_to_string(&file).unwrap();
    let port = free_port();
    let fourth = format!(
        "\n[[node]]\nname = \"n4\"\ndata = \"{{node}}\"\npublic = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{port}\"\n",
        free_port()
    );
    std::fs::write(&file, read + &fourth).unwrap();
    let leader = mesh.leader();
    let refused = mesh.nodes[leader].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("\"n4\"") && said.contains("Restart it"), "{said}");
    // It reads the file, and the others have not: that is said too.
    mesh.nodes[leader].terminate();
    mesh.nodes[leader].start_again();
    mesh.wait_until_writable();
    let leader = mesh.leader();
    let problems = eventually("its status says so", || {
        let problems = status(&mesh.nodes[leader])?["problems"].to_string();
        problems.contains("another cluster.toml").then_some(problems)
    });
    assert!(problems.contains("n1, n2, n3, n4"), "{problems}");
    // Once all have read it, what is missing is the node itself.
    for node in &mut mesh.nodes {
        node.terminate();
        node.start_again();
    }
    mesh.wait_until_writable();
    let refused = mesh.nodes[mesh.leader()].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("\"n4\"") && said.contains("does not answer"), "{said}");
}

/// In a cluster.toml the nodes mostly have the same path for their data, each on its own machine.
#[test]
fn a_node_that_was_not_meant_does_nothing() {
    let operator = Operator::new("O");
    let mesh = Nodes::unformed(3, &operator.token());
    let file = mesh.folder.path().join("cluster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("data = \"{node}\"", "data = \"n1\"")).unwrap();
    let ask = |more: &[&str]| {
        let mut command = jwtmesh();
        command.args(["member", "bootstrap", "--config"]).arg(&file).args(more);
        command.env_remove("JWTMESH_NODE").output().expect("the program")
    };
    let refused = ask(&["--node", "n2"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("\"n1\"") && said.contains("\"n2\""), "{said}");
    assert!(status(&mesh.nodes[0]).expect("it answers")["cluster_id"].is_null());
    let formed = ask(&[]);
    assert!(formed.status.success(), "{}", String::from_utf8_lossy(&formed.stderr));
}

/// The README's way from a mesh that has lost a member's disk to one that is whole.
#[test]
fn what_a_mesh_has_goes_over_to_a_new_one() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let accounts: Vec<Account> = (0..5).map(|number| Account::new(&format!("A{number}"))).collect();
    let tokens: Vec<String> = accounts.iter().map(|account| operator.account(account)).collect();
    for (account, token) in accounts.iter().zip(&tokens) {
        mesh.nodes[0].put(account, token);
    }
    mesh.nodes[2].terminate();
    std::fs::remove_dir_all(mesh.folder.path().join(NAMES[2])).unwrap();
    let kept = mesh.folder.path().join("accounts");
    let pulled = mesh.nodes[1].cli(&["account", "pull", "--all", "--dir", kept.to_str().unwrap()]);
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    for (name, node) in NAMES[..2].iter().zip(&mut mesh.nodes) {
        node.terminate();
        let folder = mesh.folder.path().join(name);
        std::fs::rename(&folder, folder.with_extension("old")).unwrap();
    }
    mesh.nodes.iter_mut().for_each(Node::start_again);
    let mesh = mesh.form();
    let pushed = mesh.nodes[0].cli(&["account", "push", kept.to_str().unwrap()]);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    for (account, token) in accounts.iter().zip(&tokens) {
        mesh.wait_until_served(account, token);
    }
}

/// One administrator changed the file of one node, or two made them of two operators.
#[test]
fn g3_operator_files_that_differ_are_named_in_the_log_and_change_no_trust() {
    let (agreed, other) = (Operator::new("O"), Operator::new("Other"));
    let mut mesh = Nodes::formed(3, &agreed.token());
    let file = mesh.folder.path().join("cluster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("operator.jwt", "{node}.jwt")).unwrap();
    for name in &NAMES[..3] {
        std::fs::write(mesh.folder.path().join(format!("{name}.jwt")), agreed.token()).unwrap();
    }
    std::fs::write(mesh.folder.path().join("n2.jwt"), other.token()).unwrap();
    mesh.nodes[1].terminate();
    mesh.nodes[1].start_again();
    let [agreed_key, other_key] = [&agreed, &other].map(|operator| operator.key.public_key());
    eventually("its log names both", || {
        let log = mesh.nodes[1].log();
        let lacks = log
            .lines()
            .any(|line| line.contains("does not name") && line.contains(&agreed_key));
        let foreign = log
            .lines()
            .any(|line| line.contains("is not trusted") && line.contains(&other_key));
        (lacks && foreign).then_some(())
    });
    for node in &mesh.nodes {
        let trusted = node.cli_json(&["operator", "show"])["items"].to_string();
        assert!(
            trusted.contains(&agreed_key) && !trusted.contains(&other_key),
            "{trusted}"
        );
    }
    let (ours, theirs) = (Account::new("A"), Account::new("B"));
    assert_eq!(
        mesh.nodes[1].post_account(&theirs.id(), &other.account(&theirs)).status,
        400
    );
    mesh.nodes[1].put(&ours, &agreed.account(&ours));
}

/// One that was forgotten when the others were emptied to make a new mesh.
#[test]
fn a_member_with_the_store_of_another_mesh_is_called_that_and_not_one_that_has_lost_its_data() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let folder = mesh.folder.path().join(NAMES[2]);
    mesh.nodes[2].terminate();
    std::fs::rename(&folder, folder.with_extension("old")).unwrap();
    for (name, node) in NAMES[..2].iter().zip(&mut mesh.nodes) {
        node.terminate();
        std::fs::remove_dir_all(mesh.folder.path().join(name)).unwrap();
    }
    mesh.nodes.iter_mut().for_each(Node::start_again);
    let mut mesh = mesh.form();
    mesh.nodes[2].terminate();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(folder.with_extension("old"), &folder).unwrap();
    mesh.nodes[2].start_again();
    for (node, other) in [(0, "\\\"n3\\\""), (2, "\\\"n1\\\"")] {
        let problems = eventually("it says so", || {
            let problems = status(&mesh.nodes[node])?["problems"].to_string();
            problems.contains("holds the store of another mesh").then_some(problems)
        });
        assert!(
            problems.contains(other) && !problems.contains("lost its data"),
            "{problems}"
        );
    }
    let refused = mesh.nodes[0].cli(&["member", "bootstrap"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("another mesh"),
        "{said}"
    );
}

//! `agent.watch`: the file is looked at, and nobody has to ask.

use std::os::unix::fs::symlink;

use lb_agent::status::reload::ReloadResult;
use lb_tests::e2e::{LIMIT, Stand};
use lb_tests::lab::{Settings, Topology, backend_host, wait_until};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

use super::{reload, reloads, settings};

/// Replaced, written in place, and behind links that change as a Kubernetes ConfigMap's do.
#[test]
fn a_watched_file_is_reloaded_however_it_changes() {
    require_agent!("a_watched_file_is_reloaded_however_it_changes");
    let watched = |absent: &[u8]| Settings { agent: "watch = true\n".to_owned(), ..settings(absent) };
    let stand = Stand::with(Topology::two_arm(3), &watched(&[])).unwrap();
    let text = |absent: &[u8]| stand.agent.with_socket(&watched(absent).text(stand.topology()));
    let mut kept = stand.held(Family::V6, 1).unwrap();
    let path = stand.agent.config();
    let dir = path.parent().unwrap();
    let reloaded = |absent: &[u8], what: &str| {
        let want: Vec<String> = (1..=3).filter(|n| !absent.contains(n)).map(backend_host).collect();
        wait_until(what, LIMIT, || {
            let status = stand.status().unwrap();
            status.services.iter().all(|s| s.backends.iter().map(|b| &b.name).eq(&want))
        })
        .unwrap();
    };
    stand.agent.write_config(&text(&[3])).unwrap();
    reloaded(&[3], "replaced");
    std::fs::write(&path, text(&[2])).unwrap();
    reloaded(&[2], "written in place");

    let version = |n: u8, absent: &[u8]| {
        let data = dir.join(format!("..{n}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("lb.toml"), text(absent)).unwrap();
        symlink(format!("..{n}"), dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version(1, &[2]);
    symlink("..data/lb.toml", dir.join("link")).unwrap();
    std::fs::rename(dir.join("link"), &path).unwrap();
    version(2, &[2, 3]);
    reloaded(&[2, 3], "the links changed");

    // A broken one changes nothing, is said once, and the next good one is taken.
    let refused = reloads(&stand, ReloadResult::Invalid);
    let broken = text(&[]).replacen("[nat]", "[nat", 1);
    std::fs::write(&path, &broken).unwrap();
    wait_until("it is refused", LIMIT, || reloads(&stand, ReloadResult::Invalid) > refused).unwrap();
    std::fs::write(&path, broken + "#").unwrap();
    assert_eq!(reload(&stand).0, Some(2));
    reloaded(&[2, 3], "nothing changed");
    std::thread::sleep(3 * lb_agent::agent::watch::LOOK);
    assert_eq!(reloads(&stand, ReloadResult::Invalid), refused + 2.0);
    version(3, &[]);
    reloaded(&[], "the links changed again");
    assert_eq!(reloads(&stand, ReloadResult::Success), 4.0, "{}", stand.agent.log());

    // The file itself says when it is watched no more.
    stand.agent.write_config(&stand.agent.with_socket(&settings(&[3]).text(stand.topology()))).unwrap();
    reloaded(&[3], "watched for the last time");
    stand.agent.write_config(&text(&[])).unwrap();
    std::thread::sleep(3 * lb_agent::agent::watch::LOOK);
    reloaded(&[3], "not looked at");
    assert_eq!(reload(&stand).0, Some(0));
    reloaded(&[], "asked for");
    assert_eq!(kept.ask().unwrap(), backend_host(1));
    stand.check().unwrap();
}

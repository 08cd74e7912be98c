//! Every channel that is offered for removal is removed, and the model still computes what it computed.

#[path = "../../../kmr-model/tests/silence/mod.rs"]
mod silence;
#[path = "../../../kmr-model/tests/zoo/mod.rs"]
mod zoo;

mod check;
mod operators;

use check::Tally;

/// Networks of many kinds, with the number of groups that people count in them.
#[test]
fn networks_lose_channels_and_compute_on() {
    let mut total = Tally::default();
    let mut miscounted = Vec::new();
    for network in zoo::networks() {
        let feeds = check::feeds(&network.feeds);
        let tally = check::every_group(network.name, &network.model, &feeds);
        if tally.groups != network.groups {
            miscounted.push(format!(
                "{}: {} of {}: {tally:?}",
                network.name, tally.groups, network.groups
            ));
        }
        // A comparison in which nothing changes shows nothing.
        assert!(
            tally.compared == 0 || tally.changed * 2 > tally.compared,
            "{}: {tally:?}",
            network.name
        );
        total.add(tally);
    }
    assert!(miscounted.is_empty(), "{}", miscounted.join("\n"));
    println!("networks: {total:#?}");
}

use kmr_sdk::model::experts::{Activation, Choice};

use super::*;
use crate::{
    config::SplitConfig,
    split::Split,
    testing::{Dense, ModelHost, apply, dense, mixture},
};

fn measure<M: Meter<Config = NoConfig>>(host: &ModelHost) -> Result<Reading> {
    let request = MeasureRequest {
        split: Default::default(),
        limit: None,
    };
    M::new(NoConfig {}).and_then(|mut meter| host.with(|host| meter.measure(host, &request)))
}

/// Of each token, the router and k experts of 3 · 6 · 5 products.
#[test]
fn what_is_chosen_counts() {
    for top_k in 1..=4 {
        let host = ModelHost::new(mixture(4, top_k, Choice::TopKThenSoftmax));
        let expected = (24 + top_k * 90) as f64;
        let macs = measure::<ActiveMacs>(&host).unwrap();
        assert_eq!(macs.value, expected);
        assert_eq!(measure::<ActiveParams>(&host).unwrap().value, expected);
        let layer = &macs.details["layers"][0];
        let loads: Vec<u64> = layer["loads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|load| load.as_u64().unwrap())
            .collect();
        assert_eq!(loads.iter().sum::<u64>(), 40 * top_k as u64);
        assert_eq!(
            (layer["tokens"].as_u64(), layer["layer"].as_str()),
            (Some(40), Some("mlp.gate"))
        );
        assert_eq!(macs.details["variation"], layer["variation"]);
        // Whoever chooses all uses them alike.
        assert_eq!(macs.details["variation"].as_f64() == Some(0.0), top_k == 4);
    }
}

#[test]
fn dense_layers_count_for_every_token() {
    let layer = Dense {
        neurons: 16,
        activation: Activation::Relu,
        gated: false,
        biased: false,
        outputs_first: true,
    };
    let host = ModelHost::new(dense(layer));
    assert_eq!(measure::<ActiveMacs>(&host).unwrap().value, 192.0);
    assert_eq!(measure::<ActiveParams>(&host).unwrap().value, 192.0);
    // 1 shared and 2 of 7 routed experts of two neurons each, and a router.
    let config = SplitConfig {
        experts: 8,
        shared: 1,
        ..SplitConfig::default()
    };
    apply::<Split>(&host, config, "active", "model", &[("model", 3)]).unwrap();
    assert_eq!(measure::<ActiveMacs>(&host).unwrap().value, 3.0 * 24.0 + 42.0);
    let params = measure::<ActiveParams>(&host).unwrap();
    // Beside these the router's and the layer's biases, and those of the two experts that are active.
    assert_eq!(params.value, 3.0 * 24.0 + 42.0 + 7.0 + 6.0 + 2.0 * 6.0);
    assert_eq!(params.details["layers"][0]["experts_per_token"], 2);
}

/// Experts of two sizes: what is counted depends on what is chosen.
#[test]
fn uneven_experts_are_measured() {
    let layer = Dense {
        neurons: 9,
        activation: Activation::Relu,
        gated: false,
        biased: false,
        outputs_first: true,
    };
    let host = ModelHost::new(dense(layer));
    let config = SplitConfig {
        experts: 4,
        shared: 0,
        ..SplitConfig::default()
    };
    apply::<Split>(&host, config, "active", "model", &[("model", 1)]).unwrap();
    let macs = measure::<ActiveMacs>(&host).unwrap();
    let loads = macs.details["layers"][0]["loads"].as_array().unwrap();
    let first = loads[0].as_f64().unwrap() / 40.0;
    assert!(
        (macs.value - (24.0 + first * 36.0 + (1.0 - first) * 24.0)).abs() < 1e-9,
        "{}",
        macs.value
    );
}

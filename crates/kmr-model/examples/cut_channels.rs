//! Cuts channels of a model in every way that the analysis offers, and writes each cut model beside the whole model
//! in which nothing reads these channels. `tests/compare_cuts.py` runs both in ONNX Runtime.
//!
//! `cut_channels MODEL FOLDER [--each] [--feed NAME=1x3x64x64]...`: all groups cut together in three ways; with
//! `--each`, every group on its own, too.
//!
//! `cut_channels --networks FOLDER`: the same for every network of `tests/zoo`, each in a folder of its own.

#[path = "../tests/silence/mod.rs"]
mod silence;
#[path = "../tests/zoo/mod.rs"]
mod zoo;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use kmr_model::{Model, channels::analyze, shapes};

const USAGE: &str = "usage: cut_channels MODEL FOLDER [--each] [--feed NAME=1x3x64x64]...\n       \
                     cut_channels --networks FOLDER";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(folder)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        return Err(USAGE.into());
    };
    if path == "--networks" {
        for network in zoo::networks() {
            let feeds = network.feeds.into_iter().collect();
            write_cuts(network.name, &network.model, &feeds, &folder.join(network.name), true)?;
        }
        return Ok(());
    }
    let mut each = false;
    let model = silence::with_noise(&Model::decode(fs::read(&path)?.into())?);
    let mut feeds = shapes::default_feeds(&model);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--each" => each = true,
            "--feed" => {
                let given = arguments.next().unwrap_or_default();
                let (name, sizes) = given.rsplit_once('=').ok_or("--feed takes NAME=1x3x64x64")?;
                let sizes: Result<Vec<usize>, _> = sizes.split('x').map(str::parse).collect();
                feeds.insert(name.to_owned(), sizes?);
            }
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    write_cuts(&path, &model, &feeds, &folder, each)
}

fn write_cuts(
    path: &str,
    model: &Model,
    feeds: &BTreeMap<String, Vec<usize>>,
    folder: &Path,
    each: bool,
) -> Result<(), Box<dyn Error>> {
    let shapes = shapes::infer(model, feeds)?;
    let start = std::time::Instant::now();
    let analysis = analyze(model, &shapes)?;
    let took = start.elapsed();
    let offered: Vec<_> = analysis.groups.iter().filter(|group| group.channels > 1).collect();
    let channels: usize = offered.iter().map(|group| group.channels).sum();
    println!("{path}: {} groups with {channels} units, in {took:?}", offered.len());
    let single = analysis.groups.len() - offered.len();
    if single > 0 {
        println!("  {single} groups are one unit each");
    }
    let mut reasons: BTreeMap<String, (usize, usize, String)> = BTreeMap::new();
    for refusal in &analysis.refused {
        let reason = reasons.entry(refusal.reason.clone()).or_default();
        reason.0 += 1;
        reason.1 += refusal.channels;
        if reason.2.is_empty() {
            reason.2.clone_from(&refusal.node);
        }
    }
    for (reason, (times, channels, place)) in reasons {
        println!("  refused {times} times, {channels} channels: {reason} (first: {place})");
    }

    fs::create_dir_all(folder)?;
    let sizes = feeds.iter().map(|(name, shape)| {
        let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("{name}={}\n", sizes.join("x"))
    });
    fs::write(folder.join("feeds.txt"), sizes.collect::<String>())?;
    let write = |name: &str, keep: &BTreeMap<String, Vec<usize>>| -> Result<(), Box<dyn Error>> {
        let cut = analysis.cut(model, keep)?.apply(&model.graph)?;
        fs::write(
            folder.join(format!("{name}.cut.onnx")),
            model.with_graph(cut).encode_to_vec(),
        )?;
        let silenced = silence::silenced(model, &shapes, &analysis, keep);
        fs::write(folder.join(format!("{name}.silenced.onnx")), silenced.encode_to_vec())?;
        Ok(())
    };
    for way in 0..3 {
        let cuts = offered.iter().enumerate().filter_map(|(number, group)| {
            let keep = silence::cuts(group, number as u64).into_iter().nth(way)?;
            Some((group.id.clone(), keep))
        });
        let keep: BTreeMap<_, _> = cuts.collect();
        if !keep.is_empty() {
            write(&format!("all-{way}"), &keep)?;
        }
    }
    for (number, group) in offered.iter().enumerate().filter(|_| each) {
        for (way, keep) in silence::cuts(group, number as u64).into_iter().enumerate() {
            write(&format!("group-{number}-{way}"), &[(group.id.clone(), keep)].into())?;
        }
    }
    Ok(())
}

//! `novacron cpu`: what a host's CPU offers to guests, and what two hosts have in common.

use std::fmt::Display;
use std::path::Path;

use machine::{CommonCpu, CpuCount, CpuDifference, CpuModel, CpuidLeaf, Features, Host, HostCpu};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::cli::{CpuOptions, OutputForm};
use crate::output::print_json;

/// Columns of a list of features.
const WIDTH: usize = 96;

/// What `novacron cpu --output json` says, and reads of another host.
#[derive(Serialize, Deserialize)]
struct HostDocument {
    host: HostCpu,
    models: Vec<Offer>,
}

/// A model, and whether a host offers it.
#[derive(Serialize, Deserialize)]
struct Offer {
    name: CpuModel,
    /// None for `host`.
    version: Option<u16>,
    is_offered: bool,
    /// Empty where it is offered.
    lacks: CpuDifference,
}

/// What `novacron cpu --model MODEL --output json` says.
#[derive(Serialize)]
struct ModelDocument {
    name: CpuModel,
    version: Option<u16>,
    features: Features,
    /// As the first vCPU sees it.
    cpuid: Vec<CpuidLeaf>,
}

pub(crate) fn cpu(options: &CpuOptions) -> Result<(), Failure> {
    match (options.model, &options.other) {
        (Some(model), _) => {
            let cpus = CpuCount::try_from(options.cpus)
                .map_err(|error| Failure::Other(format!("--cpus: {error}")))?;
            show_model(model, cpus, options.output)
        }
        (None, Some(other)) => {
            let other = read(other)?;
            compare(&this_host()?.host, &other.host, options.output)
        }
        (None, None) => show_host(&this_host()?, options.output),
    }
}

fn this_host() -> Result<HostDocument, Failure> {
    let host = HostCpu::of(&Host::open()?)?;
    let models = CpuModel::ALL.map(|name| {
        let lacks = name.check(&host.profile).err();
        let is_offered = lacks.is_none();
        Offer {
            name,
            version: name.version(),
            is_offered,
            lacks: lacks.map(|lacks| *lacks).unwrap_or_default(),
        }
    });
    Ok(HostDocument { host, models: models.into() })
}

fn read(path: &Path) -> Result<HostDocument, Failure> {
    let refused = |what: &dyn Display| {
        Failure::Other(format!(
            "{}: {what}; give a file with what `novacron cpu --output json` says on the other host",
            path.display()
        ))
    };
    let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| refused(&error))
}

fn show_host(document: &HostDocument, form: OutputForm) -> Result<(), Failure> {
    if form == OutputForm::Json {
        return print_json(document);
    }
    let HostCpu { family, model, stepping, profile } = &document.host;
    println!(
        "This host: {}, family {family}, model {model}, stepping {stepping}; {} physical address bits",
        profile.vendor_name(),
        profile.physical_address_bits
    );
    println!("CPU models:");
    for Offer { name, version, is_offered, lacks } in &document.models {
        let word = match (is_offered, version) {
            (false, _) => format!("lacks {lacks}"),
            (true, Some(version)) => format!("offered, table {version}: the same on every host"),
            (true, None) => {
                "offered: all features below; it moves only to hosts that have them all".to_owned()
            }
        };
        print_list(&format!("  {:<10}", name.name()), &word);
    }
    print_features("Features", &profile.features);
    Ok(())
}

fn show_model(model: CpuModel, cpus: CpuCount, form: OutputForm) -> Result<(), Failure> {
    let (Some(profile), Some(cpuid)) = (model.profile(), model.cpuid(cpus.get())) else {
        let why = "--model host: it is another on each host; `novacron cpu` shows this one";
        return Err(Failure::Other(why.to_owned()));
    };
    let document =
        ModelDocument { name: model, version: model.version(), features: profile.features, cpuid };
    if form == OutputForm::Json {
        return print_json(&document);
    }
    println!("CPU model {model}, table {}", document.version.unwrap_or_default());
    print_features("Features", &document.features);
    println!("CPUID of the first of {} vCPUs:", cpus.get());
    println!("  leaf        subleaf  eax       ebx       ecx       edx");
    for CpuidLeaf { leaf, subleaf, eax, ebx, ecx, edx } in &document.cpuid {
        println!("  {leaf:#010x}  {subleaf:<7}  {eax:08x}  {ebx:08x}  {ecx:08x}  {edx:08x}");
    }
    Ok(())
}

fn compare(here: &HostCpu, there: &HostCpu, form: OutputForm) -> Result<(), Failure> {
    let common = CommonCpu::of(&here.profile, &there.profile);
    if form == OutputForm::Json {
        return print_json(&common);
    }
    match common.best {
        Some(model) => println!(
            "Best CPU model of both: {model}; start guests that shall move with --cpu {model}"
        ),
        None => println!("No CPU model but host is offered by both"),
    }
    let moves = |from: &str, lacks: &Option<CpuDifference>| match lacks {
        None => println!("A guest with --cpu host moves {from}"),
        Some(lacks) => print_list(
            &format!("A guest with --cpu host does not move {from}: "),
            &format!("it would miss {lacks}"),
        ),
    };
    moves("from here to there", &common.host_to_there);
    moves("from there to here", &common.host_to_here);
    print_features("Both hosts", &common.both);
    print_features("This host alone", &common.only_here);
    print_features("The other host alone", &common.only_there);
    Ok(())
}

fn print_features(title: &str, features: &Features) {
    match features.len() {
        0 => println!("{title}: no features"),
        count => {
            println!("{title}: {count} features");
            print_list("  ", &features.to_string());
        }
    }
}

/// Prints words after a head, in lines of a readable width.
fn print_list(head: &str, words: &str) {
    let mut line = head.to_owned();
    for (index, word) in words.split(' ').enumerate() {
        let gap = if index == 0 || line.ends_with(' ') { "" } else { " " };
        if line.len() + gap.len() + word.len() > WIDTH && !line.trim_end().is_empty() {
            println!("{}", line.trim_end());
            line = format!("    {word}");
        } else {
            line.push_str(gap);
            line.push_str(word);
        }
    }
    println!("{line}");
}

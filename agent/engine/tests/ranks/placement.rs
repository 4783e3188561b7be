//! Layers over several devices. The devices are the CPU with candle's operations, which is how a device without kernels
//! computes. The stream, the caches and the weights take the same ways as with GPUs.

use crate::common::{GroupSetup, fixtures, parity_names};
use crate::parity::{F32_TOLERANCE, furthest_logit};
use lockstep_engine::{Accelerator, BlockFormat, DType, Devices, EngineError, PlacedLayers, Runner, RunnerConfig};

fn devices(bytes: &[u64], rest_on_cpu: bool) -> Devices {
    Devices { accelerators: bytes.iter().map(|bytes| Accelerator::plain(*bytes)).collect(), rest_on_cpu }
}

fn load(setup: &GroupSetup, devices: Devices) -> Result<Vec<PlacedLayers>, EngineError> {
    Runner::load(RunnerConfig { devices, ..setup.config(0) }, &mut |_, _| {})?.placed_layers()
}

/// Returns the bytes that a rank of the model needs on one device.
fn needed_bytes(setup: &GroupSetup) -> u64 {
    match load(setup, devices(&[1], false)) {
        Err(EngineError::DeviceMemory { fit: 0, needed, free: 1, .. }) => needed,
        other => panic!("{other:?}"),
    }
}

/// Returns a device that holds some of the layers, but not all.
fn too_small(setup: &GroupSetup) -> Devices {
    let needed_bytes = needed_bytes(setup);
    (0..200u64)
        .map(|part| devices(&[needed_bytes * 11 / 10 - needed_bytes * part / 200], true))
        .find(|devices| load(setup, devices.clone()).unwrap().len() == 2)
        .unwrap_or_else(|| panic!("all or nothing fits for {setup:?}"))
}

fn names(placed: &[PlacedLayers]) -> Vec<&str> {
    placed.iter().map(|run| run.device.split_once(' ').map_or("", |(_, how)| how)).collect()
}

#[test]
fn layers_are_placed_by_free_memory_and_the_rest_on_the_cpu() {
    let setup = GroupSetup::new("awkward-gqa", 1);
    let needed_bytes = needed_bytes(&setup);
    let cpu = load(&setup, Devices::default()).unwrap();
    assert_eq!((cpu.len(), cpu[0].layers.clone(), cpu[0].free_bytes), (1, 0..3, None));

    let one = load(&setup, devices(&[2 * needed_bytes], false)).unwrap();
    assert_eq!((names(&one), one[0].layers.clone()), (vec!["(plain)"], 0..3));
    assert!(one[0].free_bytes.unwrap() < 2 * needed_bytes - one[0].weight_bytes);

    let two = load(&setup, devices(&[2 * needed_bytes, 2 * needed_bytes], false)).unwrap();
    assert_eq!((names(&two), two[0].layers.end), (vec!["(plain)", "(plain)"], two[1].layers.start));
    // The output projection is the embedding, and both devices have a copy of it if they are apart.
    assert_eq!(two[0].weight_bytes + two[1].weight_bytes, one[0].weight_bytes + 269 * 54 * 4);

    let rest = load(&setup, too_small(&setup)).unwrap();
    assert_eq!((rest[0].layers.start, rest[0].layers.end, rest[1].layers.end), (0, rest[1].layers.start, 3));
    assert!(names(&rest)[0] == "(plain)" && names(&rest)[1] != "(plain)" && rest[1].free_bytes.is_none(), "{rest:?}");

    let nothing = load(&setup, devices(&[1, 1], true)).unwrap();
    assert_eq!(nothing, cpu);
    let error = load(&setup, Devices { rest_on_cpu: false, ..too_small(&setup) }).unwrap_err().to_string();
    for part in ["of 3 layers fit", "MiB are needed", "--isq", "MISTRALRS_NO_NCCL=1"] {
        assert!(error.contains(part), "{error}");
    }
}

/// A model whose weights keep their stored format has as many bytes in memory as were read. Tied or not, with routers
/// or not, each device counts its own weights, and none twice.
#[test]
fn counted_weights_are_those_that_are_loaded() {
    let gguf = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf");
    // Only the CPU computes with the formats of `qwen3`.
    let files = parity_names("gguf").into_iter().filter(|name| name.ends_with(".gguf") && name != "qwen3.gguf");
    let files = files.map(|name| format!("{gguf}/{name}"));
    let stored = fixtures().filter(|name| *name != "llama3-bf16").map(|name| GroupSetup::new(name, 1).source);
    for source in stored.chain(files) {
        let setup = GroupSetup { source, dtype: None, ..GroupSetup::new("qwen3", 1) };
        for devices in [Devices::default(), devices(&[1 << 30], false), too_small(&setup)] {
            let runner = Runner::load(RunnerConfig { devices, ..setup.config(0) }, &mut |_, _| {}).unwrap();
            let placed = runner.placed_layers().unwrap();
            let counted: u64 = placed.iter().map(|run| run.weight_bytes).sum();
            assert_eq!(counted, runner.bytes_read(), "{} in {placed:?}", setup.source);
        }
    }
}

#[test]
fn every_family_computes_the_same_on_any_devices() {
    for name in fixtures() {
        let setup = GroupSetup::new(name, 1);
        let needed_bytes = needed_bytes(&setup);
        let places = [
            devices(&[2 * needed_bytes], false),
            devices(&[2 * needed_bytes, 2 * needed_bytes], false),
            too_small(&setup),
        ];
        for devices in places {
            let setup = GroupSetup { devices, ..setup.clone() };
            let furthest = furthest_logit(name, &setup, true);
            assert!(furthest < F32_TOLERANCE, "{name} on {:?}: {furthest}", setup.devices);
        }
    }
}

/// Ranks of a group may have devices, too. Sums go through the host's memory.
#[test]
fn ranks_with_devices_form_a_group() {
    for (name, world_size, stages) in [("awkward-gqa", 2, 1), ("qwen3-moe", 3, 1), ("awkward-gqa", 4, 2)] {
        let setup = GroupSetup { stages, ..GroupSetup::new(name, world_size) };
        for devices in [devices(&[1 << 30], false), too_small(&GroupSetup { world_size: stages, ..setup.clone() })] {
            let setup = GroupSetup { devices, ..setup.clone() };
            let furthest = furthest_logit(name, &setup, true);
            assert!(furthest < F32_TOLERANCE, "{name} on {:?}: {furthest}", setup.devices);
        }
    }
}

/// Weights keep their format on a device, and so their numbers.
#[test]
fn every_format_is_kept_on_a_device() {
    let formats = [
        (Some(DType::BF16), None, 0.01),
        (Some(DType::F16), None, 0.002),
        (Some(DType::F32), Some(BlockFormat::Q8_0), 0.2),
        (Some(DType::F32), Some(BlockFormat::Q4K), 0.2),
    ];
    for (dtype, quantization, tolerance) in formats {
        for name in ["awkward-gqa", "qwen3-moe", "gemma3"] {
            let setup = GroupSetup { dtype, quantization, ..GroupSetup::new(name, 1) };
            let on = |devices: Devices| furthest_logit(name, &GroupSetup { devices, ..setup.clone() }, false);
            let (kernels, plain) = (on(Devices::default()), on(devices(&[1 << 30], false)));
            assert!((kernels - plain).abs() < tolerance, "{name} {dtype:?} {quantization:?}: {kernels} and {plain}");
            let placed = load(&setup, devices(&[1 << 30], false)).unwrap();
            let plain = load(&GroupSetup { quantization: None, ..setup.clone() }, devices(&[1 << 30], false));
            let (weights, plain) = (placed[0].weight_bytes, plain.unwrap()[0].weight_bytes);
            // Rows of models so narrow do not fill a block of 256.
            assert!(quantization != Some(BlockFormat::Q8_0) || weights < plain, "{weights} of {plain}");
        }
    }
}

//! Compiles every kernel of the given PTX files, and lists what the emulator does not know.

use std::collections::{BTreeMap, HashMap};

use lockstep_emulated_gpu::compile::compile;
use lockstep_emulated_gpu::ptx::Module;

fn main() {
    let (mut known, mut unknown) = (0, BTreeMap::<String, usize>::new());
    for path in std::env::args().skip(1) {
        let module = match Module::parse(&std::fs::read_to_string(&path).expect("a file")) {
            Ok(module) => module,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let globals: HashMap<String, u64> =
            module.globals.iter().map(|variable| (variable.name.clone(), 0x1000)).collect();
        for name in module.kernels.keys() {
            match compile(&module, name, &globals) {
                Ok(_) => known += 1,
                Err(error) => {
                    let text = error.to_string();
                    let key: String =
                        text.split('`').nth(1).unwrap_or("").split_whitespace().next().unwrap_or("").into();
                    *unknown.entry(format!("{key}  e.g. {text}")).or_default() += 1;
                }
            }
        }
    }
    println!("{known} kernels are known");
    for (what, count) in unknown {
        println!("{count:>5}  {what}");
    }
}

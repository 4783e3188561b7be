//! What surrounds a group: wires that can be cut, a disk that can be filled, or memory that can be taken.

use std::path::Path;

use anyhow::{Context as _, Result};
use lockstep_tests::group::{Spec, Surroundings};

use crate::control_group::ControlGroup;
use crate::lab::Lab;
use crate::plan::Setting;
use crate::small_disk::SmallDisk;

/// Surroundings of all nodes of a group. They vanish when dropped.
pub enum Around {
    Nothing,
    Wires(Lab),
    Disk(SmallDisk),
    /// Control group of each node.
    Memory(Vec<ControlGroup>),
}

impl Around {
    /// Makes surroundings for `nodes` nodes. A disk lies in `folder`.
    pub fn make(setting: Setting, nodes: usize, folder: &Path) -> Result<Self> {
        Ok(match setting {
            Setting::Loopback => Self::Nothing,
            Setting::Wires => Self::Wires(Lab::new(nodes)?),
            Setting::SmallDisk => Self::Disk(SmallDisk::mount(folder)?),
            Setting::Memory => Self::Memory((0..nodes).map(ControlGroup::memory).collect::<Result<_>>()?),
        })
    }

    /// Puts a group's nodes into the surroundings.
    pub fn apply(&self, spec: &mut Spec) {
        let nodes = 0..spec.world_size;
        let on_loopback = |wrapper| Surroundings { address: "127.0.0.1".into(), wrapper };
        spec.surroundings = match self {
            Self::Nothing => Vec::new(),
            Self::Wires(lab) => nodes.map(|node| lab.surroundings(node)).collect(),
            Self::Disk(disk) => nodes.map(|node| on_loopback(disk.wrapper(node))).collect(),
            Self::Memory(groups) => groups.iter().map(|group| on_loopback(group.wrapper())).collect(),
        };
        if let Self::Disk(disk) = self {
            spec.variables.extend(disk.variables());
        }
    }

    pub fn lab(&self) -> Result<&Lab> {
        let lab = if let Self::Wires(lab) = self { Some(lab) } else { None };
        lab.context("this group has no wires")
    }

    pub fn disk(&self) -> Result<&SmallDisk> {
        let disk = if let Self::Disk(disk) = self { Some(disk) } else { None };
        disk.context("this group has no small disk")
    }

    /// Returns the control group that limits a node's memory.
    pub fn memory(&self, node: usize) -> Result<&ControlGroup> {
        let groups = if let Self::Memory(groups) = self { Some(groups) } else { None };
        groups.and_then(|groups| groups.get(node)).context("this group has no limits")
    }
}

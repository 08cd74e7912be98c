//! A host with nothing to offer but a record of the edits that were asked of it.

use std::sync::Mutex;

use kmr_abi::{
    AbiResult, BatchIteratorBox, ErrorCode, Host, Host_TO, HostRef, OutputBufferBox, PluginError, SessionBox,
    SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, ROk, RSlice, RStr, RVec},
    },
};

/// Records edits; refuses everything that needs a model.
#[derive(Default)]
pub struct RecordingHost {
    edits: Mutex<Vec<String>>,
}

impl RecordingHost {
    /// Lends the host for a call.
    pub fn lend(&self) -> HostRef<'_> {
        Host_TO::from_ptr(RRef::new(self), TD_Opaque)
    }

    /// The documents of all edits.
    #[allow(dead_code, reason = "not every test looks at edits")]
    pub fn edits(&self) -> Vec<String> {
        self.edits.lock().unwrap().clone()
    }
}

fn nothing<T>(what: &str) -> AbiResult<T> {
    RErr(PluginError::new(
        ErrorCode::UNSUPPORTED,
        format!("this host has no {what}"),
    ))
}

impl Host for RecordingHost {
    fn graph(&self, _: RStr<'_>) -> AbiResult<RVec<u8>> {
        nothing("graph")
    }

    fn tensor(&self, _: RStr<'_>, _: RStr<'_>) -> AbiResult<SharedTensorBox> {
        nothing("tensors")
    }

    fn output<'a>(&'a self, _: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        nothing("buffers")
    }

    fn edit(&self, operations: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        self.edits.lock().unwrap().push(operations.into());
        ROk(())
    }

    fn run<'a>(&'a self, _: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        nothing("data")
    }

    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        nothing("data")
    }

    fn open_session<'a>(&'a self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        nothing("sessions")
    }

    fn progress(&self, _: f64, _: RStr<'_>) -> AbiResult<()> {
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(false)
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(7)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}

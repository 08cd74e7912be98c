//! Settings of the allocator mimalloc, where a program has it.

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc 2 and 3, for which the bindings have no name.
const PURGE_DELAY: c_int = 15;
/// Never.
const NEVER: c_long = -1;

/// Lets mimalloc keep what is freed until the program ends. Activations come and go by the megabyte: given back to the
/// system, their pages would be mapped and cleared again for every layer. Where little memory is to be used, it would be
/// fragments of what was freed that add up.
#[expect(unsafe_code, reason = "a foreign function")]
pub fn keep_freed_memory() {
    // SAFETY: a number of an option and a value that it takes; it may be called at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "foreign functions")]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: numbers of options.
        let value = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(value() > 0, "a delay by default: {}", value());
        keep_freed_memory();
        assert_eq!(value(), NEVER);
    }
}

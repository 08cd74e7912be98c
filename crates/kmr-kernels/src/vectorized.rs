//! Loops in plain Rust, with the widest vectors that round alike everywhere.

/// Defines a method of [`InstructionSet`](crate::InstructionSet) whose body is compiled for AVX2 and AVX-512 as well.
macro_rules! vectorized {
    ($(#[$doc:meta])* fn $($rest:tt)*) => {
        vectorized! { @ [] $(#[$doc])* fn $($rest)* }
    };
    ($(#[$doc:meta])* unsafe fn $($rest:tt)*) => {
        vectorized! { @ [unsafe] $(#[$doc])* fn $($rest)* }
    };
    (
        @ [$($safety:tt)?]
        $(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block
    ) => {
        impl $crate::InstructionSet {
            $(#[$doc])*
            pub(crate) $($safety)? fn $name(self, $($argument: $type),*) {
                #[inline(always)]
                $($safety)? fn body($($argument: $type),*) $body

                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                $($safety)? fn avx2($($argument: $type),*) {
                    // SAFETY: passed on from the caller, where the body is unsafe at all.
                    #[allow(unused_unsafe, reason = "the body may be safe")]
                    unsafe { body($($argument),*) }
                }

                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f")]
                $($safety)? fn avx512($($argument: $type),*) {
                    // SAFETY: as above.
                    #[allow(unused_unsafe, reason = "the body may be safe")]
                    unsafe { body($($argument),*) }
                }

                // SAFETY: a value of this type other than `Portable` is only made where the processor
                // was asked; the rest is up to the caller.
                #[allow(unused_unsafe, reason = "the body may be safe")]
                unsafe {
                    match self {
                        #[cfg(target_arch = "x86_64")]
                        Self::Avx512 => avx512($($argument),*),
                        #[cfg(target_arch = "x86_64")]
                        Self::Avx2 => avx2($($argument),*),
                        _ => body($($argument),*),
                    }
                }
            }
        }
    };
}

pub(crate) use vectorized;

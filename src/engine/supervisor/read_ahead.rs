//! Memory for reading ahead, shared by all supervisors.

/// Maximum number of due deliveries that one endpoint reads ahead, and their bytes.
const MAX_WINDOW: usize = 256;
const MAX_WINDOW_BYTES: usize = 1024 * 1024;

/// The same for all endpoints together. Each endpoint has a share, with a minimum.
const MAX_WINDOWS: usize = 16 * 1024;
const MIN_WINDOW: usize = 3;
const MAX_WINDOWS_BYTES: usize = 64 * 1024 * 1024;

/// One supervisor's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(super) deliveries: usize,
    pub(super) bytes: usize,
}

impl Share {
    /// Returns the share of one supervisor.
    pub(crate) fn among(supervisors: usize) -> Self {
        let sharers = supervisors.max(1);
        Self {
            deliveries: (MAX_WINDOWS / sharers).clamp(MIN_WINDOW, MAX_WINDOW),
            bytes: MAX_WINDOW_BYTES.min(MAX_WINDOWS_BYTES / sharers),
        }
    }

    /// Returns the number of deliveries that an endpoint with that concurrency reads ahead.
    pub(crate) fn window(self, concurrency: u32) -> usize {
        (4 * concurrency as usize).min(self.deliveries)
    }

    /// Returns the bytes of bodies that may still be read, at least one.
    pub(crate) fn room(self, bytes_at_hand: usize) -> usize {
        self.bytes.saturating_sub(bytes_at_hand).max(1)
    }
}

//! The `manifest` room: from text to admitted objects.

mod bad;

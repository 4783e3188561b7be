//! Ranks as processes, linked each to each by TCP.

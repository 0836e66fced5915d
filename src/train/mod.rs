//! Elastic training in Rust: what AdaptDL gives a PyTorch script, for a program that uses `tch`.

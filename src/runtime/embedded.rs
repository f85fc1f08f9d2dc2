//! Recipes, environments and games as a part of the program (made by the build script from `recipes` and `data`).

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

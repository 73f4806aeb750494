//! The names of the presets.

/// A built-in set of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    OpenAi,
    Vllm,
    LlamaCpp,
    Ollama,
    Triton,
    SgLang,
    Tgi,
    Any,
}

impl Preset {
    /// All presets, each with its name.
    pub(crate) const ALL: [(&str, Preset); 8] = [
        ("openai", Preset::OpenAi),
        ("vllm", Preset::Vllm),
        ("llama-cpp", Preset::LlamaCpp),
        ("ollama", Preset::Ollama),
        ("triton", Preset::Triton),
        ("sglang", Preset::SgLang),
        ("tgi", Preset::Tgi),
        ("any", Preset::Any),
    ];

    pub(crate) fn name(self) -> &'static str {
        let entry = Preset::ALL.iter().find(|(_, preset)| *preset == self);
        debug_assert!(entry.is_some(), "each preset has a name");
        entry.map(|(name, _)| *name).unwrap_or_default()
    }
}

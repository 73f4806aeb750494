//! The members of a request's body that matter, by their names.

use crate::json::Text;

/// A member, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Member {
    #[default]
    Other,
    /// `model`, in exactly this spelling.
    Model,
    /// A name that some servers read as `model`: in another case, or with a NUL behind it.
    LikeModel,
    /// A member that picks another model or an adapter than `model` does.
    OtherModel,
    /// Requests of their own within the request, or tools, which may have a model.
    SubRequests,
    Stream,
    StreamOptions,
    /// A number of output tokens, under this name.
    Output(&'static str),
    /// `n` or `best_of`.
    Repeats,
    /// An object with options of the generation.
    Options,
    /// A text, or a list of texts that are answered each by itself.
    Prompt,
    /// Files in base64.
    Files,
    /// An object with the URL of a file, or the URL itself.
    Locator,
    Url,
}

/// The names of members, in lower case.
const MEMBERS: &[(&str, Member)] = &[
    ("model", Member::Model),
    // SGLang, TGI, llama.cpp and Anthropic, in this order.
    ("lora_path", Member::OtherModel),
    ("adapter_id", Member::OtherModel),
    ("lora", Member::OtherModel),
    ("fallbacks", Member::OtherModel),
    ("models", Member::OtherModel),
    ("sampling_parameters", Member::OtherModel),
    ("tools", Member::SubRequests),
    ("moderation", Member::SubRequests),
    ("instances", Member::SubRequests),
    ("session", Member::SubRequests),
    ("stream", Member::Stream),
    ("stream_options", Member::StreamOptions),
    ("max_tokens", Member::Output("max_tokens")),
    ("max_completion_tokens", Member::Output("max_completion_tokens")),
    ("max_output_tokens", Member::Output("max_output_tokens")),
    ("n_predict", Member::Output("n_predict")),
    ("num_predict", Member::Output("num_predict")),
    ("max_new_tokens", Member::Output("max_new_tokens")),
    ("max_tokens_to_sample", Member::Output("max_tokens_to_sample")),
    ("n", Member::Repeats),
    ("n_cmpl", Member::Repeats),
    ("beam_width", Member::Repeats),
    ("best_of", Member::Repeats),
    ("options", Member::Options),
    ("parameters", Member::Options),
    ("sampling_params", Member::Options),
    ("prompt", Member::Prompt),
    // A list of conversations, each a list of messages.
    ("messages", Member::Prompt),
    ("text", Member::Prompt),
    ("input", Member::Prompt),
    ("inputs", Member::Prompt),
    ("input_ids", Member::Prompt),
    ("data", Member::Files),
    ("file_data", Member::Files),
    ("images", Member::Files),
    ("image_data", Member::Files),
    ("audio_data", Member::Files),
    ("image_url", Member::Locator),
    ("audio_url", Member::Locator),
    ("video_url", Member::Locator),
    ("input_image", Member::Locator),
    ("url", Member::Url),
];

/// Returns the member of this name, in any spelling that a server might read as the name: Go
/// ignores case, with the two characters outside of ASCII that fold into it, and C ends at a NUL.
pub(super) fn member_of(name: &Text) -> Member {
    let exact = name.beginning();
    // A name without a capital letter, a NUL or a byte outside of ASCII has one spelling.
    let has_spellings = exact.iter().any(|byte| byte.is_ascii_uppercase() || *byte == 0 || *byte >= 0x80);
    if !has_spellings {
        return find(exact);
    }
    let text = String::from_utf8_lossy(exact);
    let folded: String = text.chars().take_while(|c| *c != '\0').map(fold).collect();
    match find(folded.as_bytes()) {
        Member::Model => Member::LikeModel,
        // Some servers read the member, others do not: they are not asked for the usage.
        Member::Stream => Member::StreamOptions,
        member => member,
    }
}

fn find(name: &[u8]) -> Member {
    MEMBERS.iter().find(|(known, _)| known.as_bytes() == name).map_or(Member::Other, |(_, member)| *member)
}

fn fold(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

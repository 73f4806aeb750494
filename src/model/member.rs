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
    /// A name that some servers read as `stream`, `stream_options` or `include_usage`.
    LikeStream,
    /// A number of output tokens, under this name.
    Output(&'static str),
    /// A name that some servers read as this one.
    LikeOutput(&'static str),
    /// `n` or `best_of`.
    Repeats,
    /// An object with options of the generation, under this name.
    Options(&'static str),
    /// A name that some servers read as this one.
    LikeOptions(&'static str),
    /// Options of the generation in a form that is not read here.
    TextOptions,
    /// A text or an object with a text, or a list of them that are answered each by itself.
    Prompt,
    /// A conversation, or a list of texts that are answered each by itself.
    Messages,
    /// Prompts as vectors.
    Vectors,
    /// Requests of their own, each of which is answered.
    Instances,
    /// An earlier conversation, which is a part of the input.
    EarlierInput,
    /// Whether the answer is made in the background.
    Background,
    /// The members that llama.cpp's answer is to have, in place of all.
    AnswerFields,
    /// The priority of the request in the server's own queue, in exactly this spelling: vLLM reads no other.
    Priority,
    IncludeUsage,
    /// Files in base64.
    Files,
    /// An object with the URL of a file, or the URL itself.
    Locator,
    Url,
}

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
        Member::Stream | Member::StreamOptions | Member::IncludeUsage => Member::LikeStream,
        Member::Output(field) => Member::LikeOutput(field),
        Member::Options(name) => Member::LikeOptions(name),
        Member::Priority => Member::Other,
        member => member,
    }
}

/// Returns the member of this name, in lower case. The compiler makes few comparisons of the match.
fn find(name: &[u8]) -> Member {
    match name {
        b"model" => Member::Model,
        // SGLang, TGI, llama.cpp and Anthropic, in this order; then lists of models and options.
        b"lora_path" | b"adapter_id" | b"lora" | b"fallbacks" | b"models" => Member::OtherModel,
        // Triton takes an adapter and the output from this text.
        b"sampling_parameters" => Member::TextOptions,
        b"tools" | b"moderation" | b"session" => Member::SubRequests,
        b"instances" => Member::Instances,
        b"stream" => Member::Stream,
        b"stream_options" => Member::StreamOptions,
        b"max_tokens" => Member::Output("max_tokens"),
        b"max_completion_tokens" => Member::Output("max_completion_tokens"),
        b"max_output_tokens" => Member::Output("max_output_tokens"),
        b"n_predict" => Member::Output("n_predict"),
        b"num_predict" => Member::Output("num_predict"),
        b"max_new_tokens" => Member::Output("max_new_tokens"),
        b"max_tokens_to_sample" => Member::Output("max_tokens_to_sample"),
        // TensorRT-LLM behind Triton.
        b"request_output_len" => Member::Output("request_output_len"),
        b"n" | b"n_cmpl" | b"beam_width" | b"best_of" | b"num_return_sequences" => Member::Repeats,
        b"options" => Member::Options("options"),
        b"parameters" => Member::Options("parameters"),
        b"sampling_params" => Member::Options("sampling_params"),
        b"prompt" | b"text" | b"inputs" | b"input_ids" | b"prompt_embeds" => Member::Prompt,
        b"messages" | b"input" => Member::Messages,
        b"input_embeds" => Member::Vectors,
        b"previous_response_id" | b"conversation" => Member::EarlierInput,
        b"background" => Member::Background,
        b"response_fields" => Member::AnswerFields,
        b"include_usage" => Member::IncludeUsage,
        b"priority" => Member::Priority,
        b"data" | b"file_data" | b"images" | b"image_data" | b"audio_data" => Member::Files,
        b"image_url" | b"audio_url" | b"video_url" | b"input_image" => Member::Locator,
        b"url" => Member::Url,
        _ => Member::Other,
    }
}

fn fold(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

"""Tiny llama model with random weights: half a megabyte that a real llama.cpp server can load.

Its answers are nonsense. Tests check how requests are forwarded, not the text of the answers.
"""

import sys

import gguf
import numpy

EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 1024
WORDS = "a bear guards the door and only those who hold a key may enter while others wait outside in snow".split()
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def vocabulary():
    """Three control tokens, every byte, and some words: any input, and readable output."""
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    tokens = [(b"<unk>", gguf.TokenType.UNKNOWN), (b"<s>", control), (b"</s>", control)]
    tokens += [(b"<0x%02X>" % value, byte) for value in range(256)]
    tokens += [(("\u2581" + word).encode(), normal) for word in dict.fromkeys(WORDS)]
    return tokens


def write(path):
    tokens = vocabulary()
    specials = len(tokens) - len(dict.fromkeys(WORDS))
    random = numpy.random.default_rng(7)

    def weights(*shape):
        return (random.standard_normal(shape) * 0.3).astype(numpy.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * 3 + [-1.0] * (len(tokens) - 3))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)

    output = weights(len(tokens), EMBEDDING)
    # Words are more likely than bytes and end tokens, so answers are long enough to stream.
    output[:specials] *= 0.05
    writer.add_tensor("token_embd.weight", weights(len(tokens), EMBEDDING))
    writer.add_tensor("output_norm.weight", numpy.ones(EMBEDDING, numpy.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", numpy.ones(EMBEDDING, numpy.float32))
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{square}.weight", weights(EMBEDDING, EMBEDDING))
        for wide in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}{wide}.weight", weights(FEED_FORWARD, EMBEDDING))
        writer.add_tensor(f"{block}ffn_down.weight", weights(EMBEDDING, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])

"""llama.cpp's own server with one model, on a loopback port, until it is killed."""

import sys
import threading

import xllamacpp


def main(model, port, name="", purpose=""):
    """`name`: the model's name in the API. `purpose`: `embeddings` for a server of embeddings alone."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 4096
    params.n_parallel = 4
    params.cpuparams.n_threads = 1
    if name:
        params.model_alias = {name}
    if purpose == "embeddings":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])

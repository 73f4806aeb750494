"""gRPC service of plain bytes without generated code: unary calls and all kinds of streams."""

import threading
from concurrent import futures

import grpc

SERVICE = "bearward.test.Echo"


class Echo:
    """Echo service that records cancelled calls and the deadlines of their callers."""

    def __init__(self):
        self.begun, self.cancelled = threading.Event(), threading.Event()
        self.seconds_left = None
        self.metadata = {}

    def unary(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        context.set_trailing_metadata((("x-cost", "7"), ("total_tokens", "9")))
        return request

    def server_stream(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def client_stream(self, requests, context):
        return b"%d" % sum(int(request) for request in requests)

    def both(self, requests, context):
        yield from requests

    def slow(self, request, context):
        self.seconds_left = context.time_remaining()
        context.add_callback(self.cancelled.set)
        self.begun.set()
        self.cancelled.wait(20)
        return b""

    def fails(self, request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100%")


def serve(echo, credentials=None, options=()):
    """Starts the service on a free port; returns the server and the port."""
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(echo.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(echo.client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(echo.both),
        "Slow": grpc.unary_unary_rpc_method_handler(echo.slow),
        "Fails": grpc.unary_unary_rpc_method_handler(echo.fails),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    add = (lambda at: server.add_secure_port(at, credentials)) if credentials else server.add_insecure_port
    port = add("127.0.0.1:0")
    server.start()
    return server, port

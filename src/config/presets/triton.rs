//! The preset for NVIDIA Triton: the KServe v2 protocol and its extensions, over HTTP and gRPC.
//!
//! Triton's gRPC port and its HTTP port each need an upstream of their own. The APIs of SageMaker
//! and Vertex AI are left out of this preset.

use super::row::{ADMIN, GET, GET_AND_POST, POST, PUBLIC, READ, Row};

pub(super) const ROWS: &[Row] = &[
    ("health", GET, &["/v2/health/live", "/v2/health/ready"], PUBLIC),
    (
        "health-grpc",
        POST,
        &[
            "/grpc.health.v1.Health/Check",
            "/inference.GRPCInferenceService/ServerLive",
            "/inference.GRPCInferenceService/ServerReady",
        ],
        PUBLIC,
    ),
    ("metrics", GET, &["/metrics"], ADMIN),
    ("stats", GET, &["/v2/models/stats", "/v2/models/*/stats", "/v2/models/*/versions/*/stats"], ADMIN),
    ("trace", GET_AND_POST, &["/v2/trace/setting", "/v2/models/*/trace/setting"], ADMIN),
    ("logging", GET_AND_POST, &["/v2/logging"], ADMIN),
    ("shared-memory", GET_AND_POST, &["/v2/systemsharedmemory/**", "/v2/cudasharedmemory/**"], ADMIN),
    (
        "models-change",
        POST,
        &[
            "/v2/repository/models/*/load",
            "/v2/repository/models/*/unload",
            "/v2/repository/*/models/*/load",
            "/v2/repository/*/models/*/unload",
        ],
        ADMIN,
    ),
    (
        "admin",
        POST,
        &[
            "/inference.GRPCInferenceService/ModelStatistics",
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
            "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
            "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
            "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
            "/inference.GRPCInferenceService/CudaSharedMemoryUnregister",
            "/inference.GRPCInferenceService/TraceSetting",
            "/inference.GRPCInferenceService/LogSettings",
        ],
        ADMIN,
    ),
    ("infer", POST, &["/v2/models/{model}/infer", "/v2/models/{model}/versions/*/infer"], READ),
    (
        "infer",
        POST,
        &["/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"],
        READ,
    ),
    (
        "generate",
        POST,
        &[
            "/v2/models/{model}/generate",
            "/v2/models/{model}/generate_stream",
            "/v2/models/{model}/versions/*/generate",
            "/v2/models/{model}/versions/*/generate_stream",
        ],
        READ,
    ),
    (
        "models",
        GET,
        &[
            "/v2/models/{model}",
            "/v2/models/{model}/ready",
            "/v2/models/{model}/config",
            "/v2/models/{model}/versions/*",
            "/v2/models/{model}/versions/*/ready",
            "/v2/models/{model}/versions/*/config",
        ],
        READ,
    ),
    (
        "models-list",
        POST,
        &[
            "/v2/repository/index",
            "/v2/repository/*/index",
            "/inference.GRPCInferenceService/ModelReady",
            "/inference.GRPCInferenceService/ModelMetadata",
            "/inference.GRPCInferenceService/ModelConfig",
            "/inference.GRPCInferenceService/RepositoryIndex",
        ],
        READ,
    ),
    ("server", GET, &["/v2"], READ),
    ("server-grpc", POST, &["/inference.GRPCInferenceService/ServerMetadata"], READ),
];

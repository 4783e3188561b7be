//! Flags, their variables, and flags of other programs.

use std::time::Duration;

use lockstep_proto::limits;

use super::*;
use lockstep_api::{AllowedOrigins, StyleChoice};

fn head(command: &str, variables: &str) -> HeadConfig {
    match configure(command, variables, &CPU).unwrap().role {
        Role::Head(head) => *head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_needs_only_a_source() {
    for command in ["plain --list-files -m org/name:Q8_0", "bench -m hf://org/name:Q8_0 --list-files"] {
        let config = configure(command, "RING_PORT=1 MISTRALRS_MN_WORKER_ID=0", &CPU).unwrap();
        assert_eq!(describe(&config), "list of hf://org/name:Q8_0");
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let head = head("plain -m builtin://tiny", "");
    assert_eq!(
        head.model,
        ModelConfig {
            source: ModelSource::Builtin("tiny".into()),
            name: "tiny".into(),
            other_names: Vec::new(),
            chat_template: None,
            dtype: DType::Auto,
            quantization: Quantization::None
        }
    );
    assert_eq!((head.host.to_string(), head.http_port, head.grpc_port), ("0.0.0.0".into(), Some(1234), Some(50051)));
    let expected = ServingConfig {
        max_num_seqs: 64,
        max_num_batched_tokens: 4096,
        context_length: None,
        kv_cache: KvCacheMemory::Bytes(1 << 30),
        recovery_timeout: Duration::from_secs(120),
        drain_timeout: Duration::from_secs(30),
        max_waiting: 1024,
        tool_style: StyleChoice::Auto,
        reasoning_style: StyleChoice::Auto,
        strict_fields: false,
        kv_events: false,
    };
    assert_eq!(head.serving, expected);
    assert_eq!(head.common, CommonConfig::default());
}

#[test]
fn each_flag_has_its_variable_and_wins_over_it() {
    /// Prints the field of the configuration that the flag sets.
    type Shown = fn(&HeadConfig) -> String;
    let rows: &[(&str, &str, &str, &str, Shown)] = &[
        ("--model", "LOCKSTEP_MODEL_SOURCE", "/models/a", "file:///models/a", |head| head.model.source.to_string()),
        ("--model", "LOCKSTEP_MODEL_SOURCE", "models/b/", "b", |head| head.model.name.clone()),
        ("--model", "LOCKSTEP_MODEL_SOURCE", "file:///models/c", "file:///models/c", |head| {
            head.model.source.to_string()
        }),
        ("--served-model-name", "LOCKSTEP_MODEL_NAME", "llama", "llama", |head| head.model.name.clone()),
        ("--dtype", "LOCKSTEP_DTYPE", "bf16", "bf16", |head| head.model.dtype.as_str().into()),
        ("--isq", "LOCKSTEP_QUANTIZATION", "Q4K", "q4_k", |head| head.model.quantization.to_string()),
        ("--in-situ-quant", "LOCKSTEP_QUANTIZATION", "8", "q8_0", |head| head.model.quantization.to_string()),
        ("--isq", "LOCKSTEP_QUANTIZATION", "iq4_nl", "iq4_nl", |head| head.model.quantization.to_string()),
        ("--host", "LOCKSTEP_HOST", "127.0.0.1", "127.0.0.1", |head| head.host.to_string()),
        ("--http-port", "LOCKSTEP_HTTP_PORT", "0", "Some(0)", |head| format!("{:?}", head.http_port)),
        ("--port", "LOCKSTEP_HTTP_PORT", "off", "None", |head| format!("{:?}", head.http_port)),
        ("--grpc-port", "LOCKSTEP_GRPC_PORT", "7", "Some(7)", |head| format!("{:?}", head.grpc_port)),
        ("--allowed-origins", "LOCKSTEP_ALLOWED_ORIGINS", "https://a.example,loopback", "true false", |head| {
            let allows = |origin: &str| head.clients.allowed_origins == AllowedOrigins::parse(origin).unwrap();
            format!("{} {}", allows("https://a.example,loopback"), allows("*"))
        }),
        ("--api-key", "LOCKSTEP_API_KEY", "one,two", "[\"one\", \"two\"]", |head| {
            format!("{:?}", head.clients.api_keys.0)
        }),
        ("--api-key-file", "LOCKSTEP_API_KEY_FILE", "/keys", "Some(\"/keys\")", |head| {
            format!("{:?}", head.clients.api_key_file)
        }),
        ("--ssl-certfile", "LOCKSTEP_SSL_CERTFILE", "/pem", "Some(\"/pem\")", |head| {
            format!("{:?}", head.clients.certificate.as_ref().map(|files| &files.key))
        }),
        ("--max-seqs", "LOCKSTEP_MAX_NUM_SEQS", "3", "3", |head| head.serving.max_num_seqs.to_string()),
        ("--max-num-seqs", "LOCKSTEP_MAX_NUM_SEQS", "3", "3", |head| head.serving.max_num_seqs.to_string()),
        ("--max-num-batched-tokens", "LOCKSTEP_MAX_NUM_BATCHED_TOKENS", "512", "512", |head| {
            head.serving.max_num_batched_tokens.to_string()
        }),
        ("--max-waiting", "LOCKSTEP_MAX_WAITING", "5", "5", |head| head.serving.max_waiting.to_string()),
        ("--tool-call-parser", "LOCKSTEP_TOOL_CALL_PARSER", "mistral", "Is(Mistral)", |head| {
            format!("{:?}", head.serving.tool_style)
        }),
        ("--reasoning-parser", "LOCKSTEP_REASONING_PARSER", "none", "Off", |head| {
            format!("{:?}", head.serving.reasoning_style)
        }),
        ("--context-length", "LOCKSTEP_CONTEXT_LENGTH", "99", "Some(99)", |head| {
            format!("{:?}", head.serving.context_length)
        }),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "512Mi", "Bytes(536870912)", |head| {
            format!("{:?}", head.serving.kv_cache)
        }),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "50%", "Fraction(0.5)", |head| {
            format!("{:?}", head.serving.kv_cache)
        }),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "2G", "Bytes(2000000000)", |head| {
            format!("{:?}", head.serving.kv_cache)
        }),
        ("--recovery-timeout", "LOCKSTEP_RECOVERY_TIMEOUT", "2m", "120s", |head| {
            format!("{:?}", head.serving.recovery_timeout)
        }),
        ("--drain-timeout", "LOCKSTEP_DRAIN_TIMEOUT", "500ms", "500ms", |head| {
            format!("{:?}", head.serving.drain_timeout)
        }),
        ("--cluster-id", "LOCKSTEP_CLUSTER_ID", "blue", "Some(\"blue\")", |head| {
            format!("{:?}", head.common.cluster_id)
        }),
        ("--group-key-file", "LOCKSTEP_GROUP_KEY_FILE", "/key", "Some(\"/key\")", |head| {
            format!("{:?}", head.common.group_key)
        }),
        ("--tls-dir", "LOCKSTEP_TLS_DIR", "/tls", "Some(\"/tls\")", |head| format!("{:?}", head.common.tls)),
        ("--head-node", "LOCKSTEP_HEAD_NODE", "child", "Child", |head| format!("{:?}", head.own_ranks)),
        ("--probe-port", "LOCKSTEP_PROBE_PORT", "1237", "Some(0.0.0.0:1237)", |head| format!("{:?}", head.probes)),
        ("--advertise", "LOCKSTEP_ADVERTISE", "::1", "Some(\"::1\")", |head| format!("{:?}", head.advertise)),
        ("--group-host", "LOCKSTEP_GROUP_HOST", "::1", "[::1]:0", |head| head.control.to_string()),
        ("--threads", "LOCKSTEP_THREADS", "2", "Some(2)", |head| format!("{:?}", head.common.threads)),
        ("--isa", "LOCKSTEP_ISA", "portable", "Some(\"portable\")", |head| format!("{:?}", head.common.isa)),
    ];
    for (flag, variable, value, expected, shown) in rows {
        let model = if *flag == "--model" { "" } else { "-m builtin://tiny" };
        let by_variable = head(&format!("plain {model}"), &format!("{variable}={value}"));
        assert_eq!(shown(&by_variable), *expected, "of {variable}={value}");
        let after = head(&format!("plain {model} {flag} {value}"), &format!("{variable}=!"));
        assert_eq!(shown(&after), *expected, "of {flag} {value}");
        if *flag != "--model" {
            let before = head(&format!("{flag}={value} plain {model}"), "");
            assert_eq!(shown(&before), *expected, "of {flag}={value} before the command");
        }
    }
    assert!(head("plain -m builtin://tiny", "LOCKSTEP_FOLLOW_PARENT=1").common.follow_parent);
    for (flag, variable, expected) in
        [("", "1", true), ("--strict-fields", "0", true), ("--strict-fields=0", "1", false), ("", "0", false)]
    {
        let head = head(&format!("{flag} plain -m builtin://tiny"), &format!("LOCKSTEP_STRICT_FIELDS={variable}"));
        assert_eq!(head.serving.strict_fields, expected, "{flag} and {variable}");
        assert!(!head.serving.kv_events);
    }
}

#[test]
fn a_wrong_value_is_refused_by_flag_and_by_variable() {
    let rows: &[(&str, &str, &str, &str)] = &[
        ("--served-model-name", "LOCKSTEP_MODEL_NAME", "\u{7}", "without spaces"),
        ("--dtype", "LOCKSTEP_DTYPE", "int8", "auto, f32, bf16, f16"),
        ("--isq", "LOCKSTEP_QUANTIZATION", "int8", "Q8_0, Q6_K"),
        ("--host", "LOCKSTEP_HOST", "example.com", "IP address"),
        ("--http-port", "LOCKSTEP_HTTP_PORT", "65536", "0 to 65535"),
        ("--http-port", "LOCKSTEP_HTTP_PORT", "+1", "0 to 65535"),
        ("--grpc-port", "LOCKSTEP_GRPC_PORT", "tcp://10.0.0.1:1", "enableServiceLinks"),
        ("--allowed-origins", "LOCKSTEP_ALLOWED_ORIGINS", "a.example", "is no origin"),
        ("--max-seqs", "LOCKSTEP_MAX_NUM_SEQS", "0", "from 1"),
        ("--max-num-batched-tokens", "LOCKSTEP_MAX_NUM_BATCHED_TOKENS", "1e3", "whole number"),
        ("--max-waiting", "LOCKSTEP_MAX_WAITING", "0", "from 1"),
        ("--tool-call-parser", "LOCKSTEP_TOOL_CALL_PARSER", "xml", "hermes"),
        ("--context-length", "LOCKSTEP_CONTEXT_LENGTH", "99999999999999999999", "whole number"),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "512MB", "512Mi"),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "0", "512Mi"),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "101%", "100%"),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "0%", "1%"),
        ("--kv-cache-memory", "LOCKSTEP_KV_CACHE_MEMORY", "18446744073709551615Ki", "2Gi"),
        ("--recovery-timeout", "LOCKSTEP_RECOVERY_TIMEOUT", "120", "its unit"),
        ("--recovery-timeout", "LOCKSTEP_RECOVERY_TIMEOUT", "0s", "from 1s"),
        ("--recovery-timeout", "LOCKSTEP_RECOVERY_TIMEOUT", "25h", "to 24 h"),
        ("--drain-timeout", "LOCKSTEP_DRAIN_TIMEOUT", "1.5s", "its unit"),
        ("--drain-timeout", "LOCKSTEP_DRAIN_TIMEOUT", "18446744073709551615h", "to 24 h"),
        ("--group-host", "LOCKSTEP_GROUP_HOST", "eth0", "IP address"),
        ("--head-node", "LOCKSTEP_HEAD_NODE", "pod", "child, separate"),
        ("--probe-port", "LOCKSTEP_PROBE_PORT", "0", "1 to 65535"),
        ("--advertise", "LOCKSTEP_ADVERTISE", "0.0.0.0", "no other node can reach"),
        ("--advertise", "LOCKSTEP_ADVERTISE", "10.0.0.1:1236", "without a port"),
        ("--advertise", "LOCKSTEP_ADVERTISE", "a/b", "host's name"),
        ("--threads", "LOCKSTEP_THREADS", "0", "from 1"),
        ("--isa", "LOCKSTEP_ISA", "sse", "portable, avx2"),
        ("--log-format", "LOCKSTEP_LOG_FORMAT", "xml", "text, json"),
        ("--log", "LOCKSTEP_LOG", "a=b=c", "level"),
    ];
    for (flag, variable, value, part) in rows {
        let shown = value.chars().take(20).collect::<String>();
        let by_variable = configure("plain -m builtin://tiny", &format!("{variable}={value}"), &CPU);
        let by_flag = configure(&format!("plain -m builtin://tiny {flag} {value}"), "", &CPU);
        for (name, got) in [(variable, by_variable), (flag, by_flag)] {
            check_one(name, got.map(|config| describe(&config)), &Err(&[name, &shown, part]));
        }
    }
    let row: Row = ("LOCKSTEP_FOLLOW_PARENT=no", CPU, Err(&["LOCKSTEP_FOLLOW_PARENT=no", "1 or 0"]));
    check(&[row, ("LOCKSTEP_HOST=", CPU, Err(&["LOCKSTEP_HOST=", "the value is empty"]))]);
    let long = "x".repeat(5000);
    let error = configure("plain -m a", &format!("LOCKSTEP_CLUSTER_ID={long}"), &CPU).unwrap_err().to_string();
    assert!(error.contains("longer than 4096 bytes") && error.len() < 400, "{error}");
}

#[test]
fn contradicting_settings_are_refused() {
    let rows: &[(&str, &[&str])] = &[
        ("plain", &["--model is not set", "LOCKSTEP_MODEL_SOURCE"]),
        ("plain -m hf://a/b/c", &["--model=hf://a/b/c", "org/name"]),
        ("plain -m /a --revision main", &["--revision=main", "--model=/a", "no model of a hub"]),
        ("plain -m hf://a/b:Q4%", &["--model=hf://a/b:Q4%", "a tag is a quantization"]),
        ("plain --list-files", &["--model is not set"]),
        ("plain -m pvc://a", &["--model=pvc://a", "Kubernetes"]),
        ("plain -m s3://a", &["--model=s3://a", "file://"]),
        ("plain -m file://", &["nothing follows file://"]),
        ("plain -m builtin://", &["nothing follows builtin://"]),
        ("plain -m /", &["--model=/", "--served-model-name"]),
        ("plain -m a --http-port off --grpc-port off", &["--http-port is off", "--grpc-port is off"]),
        ("plain -m a --http-port 7 --grpc-port 7", &["gRPC port is 7", "HTTP port is 7 too"]),
        ("plain -m a --max-seqs 10 --max-num-batched-tokens 9", &["tokens is 9", "--max-seqs is 10"]),
        ("plain -m a --ssl-keyfile k", &["--ssl-keyfile is set", "--ssl-certfile is not"]),
        ("plain -m a --api-key a,,b", &["--api-key=…", "visible ASCII"]),
        ("plain -m a --nonsense", &["unexpected argument '--nonsense'"]),
        ("plain -m a b", &["unexpected argument 'b'"]),
        ("", &["Usage:"]),
    ];
    for (command, parts) in rows {
        check_one(command, configure(command, "", &CPU).map(|config| describe(&config)), &Err(parts));
    }
    check(&[
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 LOCKSTEP_HTTP_PORT=1235",
            CPU,
            Err(&["control port is 1235", "HTTP port is 1235 too"]),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_LOCAL_WORLD_SIZE=2 LOCKSTEP_GRPC_PORT=1237",
            CPU,
            Err(&["ring port is 1237", "gRPC"]),
        ),
    ]);
    assert_eq!(head("plain -m a --http-port 0 --grpc-port 0", "").http_port, Some(0));
}

#[test]
fn a_flag_of_another_program_is_refused_by_name() {
    let rows = [
        ("--imatrix a plain -m a", "--imatrix", "--isq"),
        ("--serve-ip 0.0.0.0 plain -m a", "--serve-ip", "--host"),
        ("plain -m a -d bf16", "-d is not supported", "--dtype"),
        ("-l log.txt plain -m a", "-l is not supported", "--log"),
        ("-c chat.json plain -m a", "-c is not supported", "--chat-template"),
        ("plain -m a --root-path /x", "--root-path", "proxy"),
        ("plain -m a --enable-prefix-caching", "--enable-prefix-caching", "always on"),
        ("plain -m a -ngl 99", "-ngl", "MISTRALRS_MN_LOCAL_WORLD_SIZE"),
        ("plain -m a --kv-cache-dtype fp8", "--kv-cache-dtype", "leave the flag out"),
        ("plain -m a --prompt-chunksize=64", "--prompt-chunksize", "--max-num-batched-tokens"),
        ("plain -m a -a llama", "-a is not supported", "config.json"),
        ("--max-seq-len 5 plain -m a", "--max-seq-len", "--context-length"),
        ("--pa-gpu-mem 5 plain -m a", "--pa-gpu-mem", "--kv-cache-memory"),
        ("gguf -m a -f b", "gguf is not supported", "plain -m FILE.gguf"),
        ("vision-plain -m a", "vision-plain", "text models"),
        ("run -m a", "run is not supported", "plain -m"),
    ];
    for (command, culprit, remedy) in rows {
        let got = configure(command, "", &CPU).map(|config| describe(&config));
        check_one(command, got, &Err(&[culprit, "is not supported", remedy]));
    }
}

#[test]
fn flags_of_other_programs_mean_what_they_mean_there() {
    let context = |command: &str| head(command, "").serving.context_length;
    assert_eq!(["--max-model-len", "--ctx-size"].map(|flag| context(&format!("plain -m a {flag} 99"))), [Some(99); 2]);
    assert_eq!(head("plain -m a --parallel 3", "").serving.max_num_seqs, 3);
    assert_eq!(head("plain -m a --gpu-memory-utilization 0.5", "").serving.kv_cache, KvCacheMemory::Fraction(0.5));
    assert_eq!(head("plain -m a --host localhost", "").host.to_string(), "127.0.0.1");
    assert_eq!(head("plain -m a --chat-template /x.jinja", "").model.chat_template, Some("/x.jinja".into()));
    for command in ["plain -m a --served-model-name b c", "--alias b,c plain -m a"] {
        let model = head(command, "").model;
        assert_eq!((model.name.as_str(), &model.other_names[..]), ("b", &["c".to_owned()][..]), "{command}");
    }
    let shape = |command: &str, variables: &str| {
        let topology = head(command, variables).topology;
        (topology.world_size, topology.local_world_size, topology.pipeline)
    };
    assert_eq!(shape("plain -m a --tensor-parallel-size 3", ""), (3, 3, 1));
    assert_eq!(shape("plain -m a -tp 2 -pp 2", ""), (4, 4, 2));
    assert_eq!(shape("plain -m a --tp 2", "MISTRALRS_PIPELINE_PARALLEL=3 MISTRALRS_MN_LOCAL_WORLD_SIZE=6"), (6, 6, 3));
    let rows: [(&str, &str, &[&str]); 4] = [
        ("plain -m a --tp 2", "MISTRALRS_MN_LOCAL_WORLD_SIZE=3", &["--tensor-parallel-size is 2", "is 3, not 2"]),
        ("plain -m a --pp 2", "MISTRALRS_PIPELINE_PARALLEL=3", &["--pipeline-parallel-size is 2", "is 3"]),
        ("plain -m a --tp 2", "MISTRALRS_MN_HEAD_NUM_WORKERS=1", &["several nodes", "leave the flag out"]),
        ("plain -m a --tp 0", "", &["--tensor-parallel-size=0"]),
    ];
    for (command, variables, parts) in rows {
        let got = configure(command, variables, &CPU).map(|config| describe(&config));
        check_one(command, got, &Err(parts));
    }
    // Flags that are spelled alike mean other things.
    let error = configure("plain -m a --max-modal-len 5", "", &CPU).unwrap_err().to_string();
    assert!(error.contains("--max-modal-len") && !error.contains("similar"), "{error}");
}

#[test]
fn some_flags_may_be_repeated() {
    let one = head("plain -m a --api-key one --api-key two,three --allowed-origins loopback --allowed-origins *", "");
    assert_eq!(one.clients.api_keys.0, ["one", "two", "three"]);
    assert!(!format!("{:?}", one.clients).contains("two"), "keys are not shown");
    assert_eq!(one.clients.allowed_origins, AllowedOrigins::parse("loopback,*").unwrap());
    let json = AllowedOrigins::parse("*").unwrap();
    assert_eq!(head("plain -m a --allowed-origins [\"*\"]", "").clients.allowed_origins, json);
}

#[test]
fn a_conversation_serves_only_the_ports_that_are_set() {
    for command in ["-i plain -m a", "plain -i -m a", "plain -m a --interactive-mode"] {
        let head = head(command, "HOME=/home/me");
        let history = Some("/home/me/.local/state/lockstep/chat_history".into());
        assert_eq!(head.foreground, Some(Foreground::Chat(ChatConfig { throughput: false, history })), "{command}");
        assert_eq!((head.http_port, head.grpc_port), (None, None), "{command}");
    }
    let one = head("-i --throughput --port 1234 plain -m a", "XDG_STATE_HOME=/state HOME=/home/me");
    let history = Some("/state/lockstep/chat_history".into());
    assert_eq!(one.foreground, Some(Foreground::Chat(ChatConfig { throughput: true, history })));
    assert_eq!((one.http_port, one.grpc_port), (Some(1234), None));
    assert_eq!(head("-i plain -m a", "LOCKSTEP_GRPC_PORT=0").grpc_port, Some(0));
    let nowhere = ChatConfig { throughput: false, history: None };
    assert_eq!(head("-i plain -m a", "XDG_STATE_HOME=state").foreground, Some(Foreground::Chat(nowhere)));
    let filter = |command: &str| configure(command, "", &CPU).unwrap().log.filter;
    let filters = ["plain -m a", "-i plain -m a", "-i --log debug plain -m a"].map(filter);
    assert_eq!(filters, ["info", "warn", "debug"]);
    let filter = configure("-i plain -m a", "MISTRALRS_NO_NCCL=1", &CPU).unwrap().log.filter;
    assert_eq!(filter, "warn,lockstep_agent::node::rank=info", "the placement of the layers is logged");
    let got = configure("-i plain -m a", "LOCKSTEP_FOLLOW_PARENT=1", &CPU).map(|config| describe(&config));
    check_one("-i", got, &Err(&["-i and LOCKSTEP_FOLLOW_PARENT", "standard input"]));
    let config = configure("--throughput plain -m a", "", &CPU).unwrap();
    assert!(config.warnings[0].contains("--throughput has no effect without -i"), "{:?}", config.warnings);
}

#[test]
fn a_measurement_is_checked() {
    let bench = |command: &str| match head(command, "").foreground {
        Some(Foreground::Bench(bench)) => bench,
        other => panic!("{other:?}"),
    };
    let default =
        BenchConfig { batch_sizes: vec![1, 2, 4, 8], prompt_tokens: 512, answer_tokens: 32, rounds: 5, json: false };
    assert_eq!(bench("bench -m a"), default);
    assert_eq!(bench("bench -m a --max-seqs 3").batch_sizes, [1, 2]);
    let command = "bench -m a --batch-sizes 16,1 --prompt-tokens 7 --answer-tokens 9 --rounds 1 --json --threads 2";
    let expected = BenchConfig { batch_sizes: vec![16, 1], prompt_tokens: 7, answer_tokens: 9, rounds: 1, json: true };
    assert_eq!(bench(command), expected);
    assert_eq!((head("bench -m a", "").http_port, head("bench -m a --port 7", "").http_port), (None, Some(7)));
    let worker = configure("bench", "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1", &CPU).unwrap();
    assert!(matches!(worker.role, Role::Node(_)) && worker.warnings.is_empty(), "{worker:?}");
    let rows: &[(&str, &[&str])] = &[
        ("bench", &["--model is not set"]),
        ("bench -m a --batch-sizes 1,x", &["--batch-sizes=x", "whole number"]),
        ("bench -m a --batch-sizes 65", &["--batch-sizes names 65", "--max-seqs is 64"]),
        ("bench -m a --answer-tokens 1", &["--answer-tokens=1", "from 2"]),
        ("bench -m a --rounds 0", &["--rounds=0"]),
        ("-i bench -m a", &["-i and bench"]),
    ];
    for (command, parts) in rows {
        check_one(command, configure(command, "", &CPU).map(|config| describe(&config)), &Err(parts));
    }
}

#[test]
fn a_worker_accepts_the_heads_command() {
    let worker = "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1";
    let config = configure("plain", &format!("{worker} LOCKSTEP_HTTP_PORT=0"), &CPU).unwrap();
    assert!(matches!(config.role, Role::Node(_)) && config.warnings.is_empty(), "{config:?}");
    let config = configure("-i --throughput plain -m /m", &format!("{worker} LOCKSTEP_FOLLOW_PARENT=1"), &CPU).unwrap();
    assert!(matches!(config.role, Role::Node(_)) && config.warnings.is_empty(), "{config:?}");
    let config = configure("plain -m /m --grpc-port 5", worker, &CPU).unwrap();
    assert!(config.warnings[0].contains("--grpc-port has no effect here"), "{:?}", config.warnings);
}

#[test]
fn the_child_reads_back_the_arguments_of_the_head() {
    let rows = [
        ("plain -m a", "", "127.0.0.1:7"),
        ("plain -m a --threads 2 --isa avx2 --group-key-file /key", "MISTRALRS_MN_LOCAL_WORLD_SIZE=2", "[::1]:7"),
        ("plain -m a --tls-dir /tls --probe-port 9 --host ::1", "LOCKSTEP_ADVERTISE=::1", "127.0.0.1:7"),
        ("plain -m a --log-format json --log debug", "MISTRALRS_MN_HEAD_NUM_WORKERS=1", "0.0.0.0:7"),
        ("plain -m a", "RING_PORT=1 RING_RIGHT=[::1]:2 RING_RANK=0 RING_WORLD_SIZE=4", "[::]:7"),
    ];
    for (command, variables, control) in rows {
        let log = configure(command, variables, &CPU).unwrap().log;
        let node = head(command, variables).own_node(control.parse().unwrap(), "blue");
        let arguments = node.to_arguments(&log).unwrap();
        // The child inherits the variables of the head. No variable may change its role.
        let child = configure(&arguments.join(" "), variables, &CPU).unwrap();
        let Role::Node(read) = child.role else { panic!("{arguments:?} is no node") };
        assert_eq!((&*read, &child.log), (&node, &log), "of `{command}`");
        assert_eq!((read.ordinal, read.common.follow_parent), (0, true));
        let ControlAddress::Known(address) = read.control else { panic!("of `{command}`") };
        assert!(address.is_loopback(), "of `{command}`: {address}");
    }
}

/// A pod runs the head in one container and its ranks in another.
#[test]
fn the_heads_ranks_may_run_in_a_separate_process() {
    let variables = "LOCKSTEP_HEAD_NODE=separate LOCKSTEP_TLS_DIR=/tls MISTRALRS_MN_HEAD_NUM_WORKERS=0";
    let one = head("plain -m a", variables);
    assert_eq!((one.own_ranks, one.control.to_string().as_str()), (OwnRanks::Separate, "0.0.0.0:1235"));
    let node =
        "node --ordinal=0 --control=127.0.0.1:1235 --local-world-size=2 --world-size=6 --ring-listen=0.0.0.0:1236";
    let variables = format!("{variables} LOCKSTEP_PROBE_PORT=1237 LOCKSTEP_ADVERTISE=10.1.2.3");
    let config = configure(node, &variables, &CPU).unwrap();
    let Role::Node(node) = config.role else { panic!("no node") };
    assert_eq!(node.probes, Some("0.0.0.0:1237".parse().unwrap()));
    assert_eq!((node.advertise.as_deref(), node.common.tls.is_some()), (Some("10.1.2.3"), true));
    assert!(!node.common.follow_parent && config.warnings.is_empty(), "{:?}", config.warnings);
    let config = configure("plain -m a", &variables, &CPU).unwrap();
    assert!(config.warnings[0].contains("LOCKSTEP_PROBE_PORT has no effect here"), "{:?}", config.warnings);
    check(&[
        ("LOCKSTEP_HEAD_NODE=separate", CPU, Err(&["LOCKSTEP_HEAD_NODE=separate", "MISTRALRS_MN_HEAD_PORT"])),
        (
            "LOCKSTEP_HEAD_NODE=separate RING_PORT=1 RING_RIGHT=2 RING_RANK=0 RING_WORLD_SIZE=2",
            CPU,
            Err(&["describes the group as a ring", "MISTRALRS_MN_*"]),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1 LOCKSTEP_GROUP_HOST=127.0.0.1 \
             LOCKSTEP_ADVERTISE=10.0.0.9",
            CPU,
            Err(&["LOCKSTEP_ADVERTISE=10.0.0.9", "listens only on 127.0.0.1", "LOCKSTEP_GROUP_HOST"]),
        ),
    ]);
}

#[test]
fn a_wrong_node_command_is_refused() {
    let rows: &[(&str, &[&str])] = &[
        (
            "node --control a --ordinal 0 --local-world-size 1 --ring-listen 127.0.0.1:0",
            &["--control=a", "port is missing"],
        ),
        ("node --control a:1 --ordinal x --local-world-size 1 --ring-listen 127.0.0.1:0", &["--ordinal=x"]),
        ("node --control a:1 --ordinal 0 --local-world-size 0 --ring-listen 127.0.0.1:0", &["--local-world-size=0"]),
        ("node --control a:1 --ordinal 0 --local-world-size 1 --ring-listen a:0", &["--ring-listen=a:0", "IP address"]),
        (
            "node --control a:1 --ordinal 0 --local-world-size 1 --ring-listen 127.0.0.1:1 --ring-right b:1",
            &["--world-size is not set"],
        ),
    ];
    for (command, parts) in rows {
        check_one(command, configure(command, "", &CPU).map(|config| describe(&config)), &Err(parts));
    }
}

#[test]
fn the_help_names_each_variable() {
    let Err(ConfigError::Usage(help)) = parse(["lockstep-agent", "plain", "--help"]) else { panic!("no help") };
    let help = help.to_string();
    for part in ["-m, --model <SOURCE>", "LOCKSTEP_MODEL_SOURCE", "LOCKSTEP_HTTP_PORT", "--http-port", "LOCKSTEP_LOG]"]
    {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
    args::command().debug_assert();
}

#[test]
fn the_page_lists_every_variable_and_flag() {
    let page = include_str!("../../../CONFIGURATION.md");
    for name in lockstep_proto::names::env::ALL {
        assert!(
            page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}=")),
            "{name} is not in the page"
        );
    }
    for name in lockstep_proto::names::hub::ALL {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in the page");
    }
    for arg in args::command().get_arguments().filter_map(|arg| arg.get_long()) {
        assert!(page.contains(&format!("`--{arg}`")), "--{arg} is not in CONFIGURATION.md");
    }
}

#[test]
fn the_help_and_the_page_state_the_defaults() {
    let Err(ConfigError::Usage(help)) = parse(["lockstep-agent", "plain", "--help"]) else { panic!("no help") };
    let help = help.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let page = include_str!("../../../CONFIGURATION.md");
    let rows = [
        ("--max-seqs", limits::DEFAULT_NUM_SEQS.to_string()),
        ("--max-num-batched-tokens", limits::DEFAULT_NUM_BATCHED_TOKENS.to_string()),
        ("--kv-cache-memory", format!("1Gi; with CUDA {}%", limits::DEFAULT_KV_CACHE_PERCENT)),
        ("--recovery-timeout", format!("{}s", limits::DEFAULT_RECOVERY_TIMEOUT_S)),
    ];
    for (flag, default) in rows {
        let entry = help.split(&format!("{flag} <")).nth(1).expect(flag).split(" --").next().unwrap_or_default();
        assert!(entry.contains(&format!("Default: {default}")), "{flag}: {entry}");
        let row = page.lines().find(|line| line.starts_with(&format!("| `{flag}`"))).expect(flag);
        assert!(row.contains(&format!("({default})")), "{row}");
    }
}

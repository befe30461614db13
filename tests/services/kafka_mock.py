"""A mock cluster of librdkafka in a process of its own: real sockets and Kafka's protocol, messages in memory.

`test.mock.num.brokers` makes such a cluster for one client; here it is made by librdkafka's own functions
(rdkafka_mock.h), so that others can connect. Its first line says where. Commands on standard input, answered by
`done`: `topic NAME PARTITIONS`, `down` (all brokers close their connections and take none), `up`, `fail API CODE
TIMES`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import confluent_kafka

BROKERS = 1


def library() -> ctypes.CDLL:
    """The one that the wheel of confluent-kafka brings."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, number]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_broker_set_down", number, [pointer, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_up", number, [pointer, ctypes.c_int32]),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        ("rd_kafka_mock_push_request_errors_array", None, [pointer, ctypes.c_int16, ctypes.c_size_t, pointer]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def main() -> None:
    kafka = library()
    words = ctypes.create_string_buffer(512)
    client = kafka.rd_kafka_new(0, kafka.rd_kafka_conf_new(), words, len(words))
    assert client, words.value
    cluster = kafka.rd_kafka_mock_cluster_new(client, BROKERS)
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 100)
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["topic", name, partitions]:
                assert not kafka.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1)
            case ["down"]:
                for broker in range(1, BROKERS + 1):
                    assert not kafka.rd_kafka_mock_broker_set_down(cluster, broker)
            case ["up"]:
                for broker in range(1, BROKERS + 1):
                    assert not kafka.rd_kafka_mock_broker_set_up(cluster, broker)
            case ["fail", api, code, times]:
                errors = (ctypes.c_int * int(times))(*[int(code)] * int(times))
                kafka.rd_kafka_mock_push_request_errors_array(cluster, int(api), int(times), errors)
        print("done", flush=True)


if __name__ == "__main__":
    main()

"""Two services are compared where their slowest requests wait equally long."""

from dualtoken.lab.service_rate import PLAIN, SERVED, at_equal_p99


def row(service: str, p99: float, rate: float) -> dict[str, object]:
    return {"service": service, "p99_ms": p99, "requests_per_second": rate}


def test_each_has_the_best_that_keeps_to_the_time():
    served = [row(SERVED, 150, 20), row(SERVED, 300, 50), row(SERVED, 410, 80)]
    plain = [row(PLAIN, 400, 40), row(PLAIN, 100, 10), row(PLAIN, 500, 35)]
    assert at_equal_p99(served + plain) == [(100, 0, 10), (400, 50, 40), (500, 80, 40)]

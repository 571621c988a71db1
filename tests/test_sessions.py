"""What a server keeps of its visitors: whose run is whose, and which are forgotten."""

from traces import made_up_trace

from dvl_core.sessions import Run, Sessions


def test_a_visitor_stops_their_own_run_only():
    sessions = Sessions()
    mine, yours = sessions.open("me"), sessions.open("you")
    sessions.stop("me")
    assert mine.stop.is_set() and not yours.stop.is_set()
    again = sessions.open("you")
    assert yours.stop.is_set() and sessions.is_current("you", again) and not sessions.is_current("you", yours)
    sessions.leave("you")
    assert again.stop.is_set() and not sessions.is_current("you", again)
    sessions.stop("nobody")


def test_a_run_goes_on_until_it_is_over():
    sessions = Sessions()
    run = sessions.open("me")
    assert sessions.going_on("me") is run and sessions.going_on("you") is None
    run.over = True
    assert sessions.going_on("me") is None


def test_old_runs_are_forgotten_and_recorded_ones_kept():
    sessions, trace = Sessions(capacity=3), made_up_trace()
    sessions.keep("recorded", trace)
    runs = [sessions.open(str(i)) for i in range(5)]
    for run in runs:
        run.trace = trace
    assert [sessions.trace(run.id) is trace for run in runs] == [False, False, True, True, True]
    assert sessions.trace("recorded") is trace and sessions.trace("unknown") is None
    assert len({run.id for run in runs}) == 5 and all(len(run.id) >= 16 for run in runs)


def test_a_growing_run_is_measured_step_by_step():
    trace = made_up_trace()
    steps, trace.steps = trace.steps, []
    run = Run("one", trace=trace)
    for step in steps:
        run.rough_bytes()
        trace.steps.append(step)
    assert run.rough_bytes() == run.rough_bytes() == Run("two", trace=trace).rough_bytes() > 0


def test_runs_that_take_too_much_memory_are_forgotten_first_come_first():
    """But for the newest of somebody who is here."""
    large = made_up_trace()
    for step in large.steps:
        step.attention = {"1": [[0.5] * 500 for _ in step.masked]}
    size = Run("large", trace=large).rough_bytes()
    assert size > 10 * Run("small", trace=made_up_trace()).rough_bytes()
    sessions = Sessions(memory=2 * size + size // 2)
    here = sessions.open("me")
    runs = [here, *(sessions.add(large) for _ in range(3))]
    here.trace = large
    newest = sessions.add(large)
    kept = [sessions.run(run.id) is not None for run in (*runs, newest)]
    assert kept == [True, False, False, False, True]

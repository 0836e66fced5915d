"""What the tests here share."""


def enter(test, context):
    """Enter a context until the test is over (as unittest's own `enterContext`, which Python 3.10 has not)."""
    value = context.__enter__()
    test.addCleanup(context.__exit__, None, None, None)
    return value

"""Callers' callbacks that are told how far work is."""


def goes_on(progress):
    """A callback whose result, unless it has none, says whether to go on."""
    if progress is None:
        return None

    def answer(*at):
        result = progress(*at)
        return result is None or bool(result)
    return answer

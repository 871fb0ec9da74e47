"""The error that a user can mend."""


class UserError(ValueError):
    """A mistake of the user, or of the user's data.

    Its message is one clear line that says what is wrong and what to do. Commands
    print that line without a traceback and exit with a code other than 0.
    """

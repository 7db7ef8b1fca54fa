"""When the loss shows that a run's weights are ruined, as by too high a learning rate."""

import math

from storage.run_state import RunState

# Guessing costs ln(n_vocab) nats per token: 10.8 with GPT-2's vocabulary. New weights begin there, and a published model, on a
# text unlike any it has seen, a little above. Weights of another scale may begin at hundreds, so the first step counts too. With
# models/tiny, where guessing costs 6.9, a learning rate of 0.05 cost up to 11, and the run recovered; 0.3 cost 24 to 60 for as
# long as it ran; 1 cost 100 in the third step and 300 to 600 later; 5 cost 900 in the second step and 13,000 later.
SUDDEN = 10                 # times the larger of the two: no single batch is so hard for weights that are of use
LASTING, STEPS = 2, 100     # times the larger of the two, in so many steps in a row


def ruin(loss: float, state: RunState, n_vocab: int) -> str | None:
    """Notes the loss of step `state.step`, and returns in words why it shows ruined weights; None if it does not.

    It depends on the mean loss and the state alone, which all workers have.
    """
    guessing = math.log(n_vocab)
    if state.first_loss is None:
        state.first_loss = loss
    usual = max(guessing, state.first_loss)
    state.far_off = state.far_off + 1 if loss > LASTING * usual else 0
    both = f'that of guessing ({guessing:.2f}) and that of the first step ({state.first_loss:.2f})'
    if loss > SUDDEN * usual:
        return f'the loss of step {state.step} is {loss:.6g}, more than {SUDDEN} times {both}'
    if state.far_off >= STEPS:
        return f'the loss of step {state.step} is {loss:.6g}, and for {STEPS} steps was more than {LASTING} times {both}'
    return None

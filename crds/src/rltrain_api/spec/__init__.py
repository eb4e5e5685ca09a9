"""The parts of an RLTrainingJob's spec outside `config`, one module for each subject; `rltrain_api.job` joins them."""

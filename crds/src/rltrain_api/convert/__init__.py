"""Conversion: from what a SkyRL user has to an RLTrainingJob, with a word on everything that could not come along.

    detect                                        what kind of input it is
    syntax, words, blocks, assignments, expand    the words of a shell script and what they stand for
    script                                        a launch script, read without running it
    commands, launch, entrypoints, slurm          what its commands mean, where the training program is, which it is
    arguments, documents, interpolation, items    overrides and YAML as single values with their lines
    legacy, versions, fields, translate           names of every age of SkyRL as those of 0.1
    resolved                                      a configuration without its repeated defaults
    environment, paths, job                       exports, files and the rest of the job
    report, options, conversion                   what there is to say; what the person says; the whole

Everything here is pure: text in, document and notes out. Nothing of the input is ever run.
"""

from rltrain_api.convert.conversion import Conversion, ConversionError, convert
from rltrain_api.convert.detect import Kind
from rltrain_api.convert.options import Options
from rltrain_api.convert.report import Level, Note

__all__ = ["Conversion", "ConversionError", "Kind", "Level", "Note", "Options", "convert"]

// From the merged document to trials.
#pragma once

#include "document.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::spec {

/// The document's trials in order: blocks one after the other; in a block points turn slowest, then zip, then the sample, then the grid's axes, the
/// last fastest. Derived values are computed from the trial as it stands after everything else. Trials of equal id are dropped and counted, so are
/// excluded ones; a combination that makes no sense is a `config` error.
/// More combinations than the document's limit are an error before any is made.
Sweep expand(const Document& document, const Selection& selection = {});

/// The trials that `expand` gives and the selection chooses, in the same order, handed out one by one. What is kept grows by some 50 bytes a trial,
/// never by a config. With a selection the trials are made twice, since the last duplicate may be the one that is chosen.
Counts expand_each(const Document& document, const Selection& selection, const Visit& visit);

/// The one config of a trial's file.
train::TrialConfig expand_trial(const Document& document);

/// The config of the document's own keys, whatever else it holds; combinations are not judged.
train::TrialConfig config_of(const Document& document);

/// The document as JSON that, read as a sweep file, gives the same trials and needs no other file.
Json resolved_json(const Document& document, const std::string& name);

}  // namespace moesweep::spec

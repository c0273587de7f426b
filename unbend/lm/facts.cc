#include "unbend/lm/facts.h"

#include <algorithm>
#include <array>

#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

constexpr std::string_view kPeople[] = {"Anna", "Peter", "Maria", "David"};
constexpr std::string_view kPlaces[] = {"kitchen", "garden", "office", "library", "bathroom", "hallway"};
constexpr std::string_view kThings[] = {"lamp", "book", "apple"};
constexpr int kUnknown = -1;

int one_of(std::span<const std::string_view> items, Random& random) {
  return static_cast<int>(random.below(items.size()));
}

/// The state of the little world, and the sentences that led to it.
struct World {
  std::array<int, std::size(kPeople)> person_at, holds;     // place, thing
  std::array<int, std::size(kThings)> holder;               // person
  std::array<std::vector<int>, std::size(kThings)> places;  // where it was, each after another
  std::vector<std::string> facts;

  World() { person_at.fill(kUnknown), holds.fill(kUnknown), holder.fill(kUnknown); }

  void comes_to(int thing, int place) {
    if (places[thing].empty() || places[thing].back() != place) places[thing].push_back(place);
  }
  void go(int person, int place) {
    person_at[person] = place;
    if (holds[person] != kUnknown) comes_to(holds[person], place);
    facts.push_back(fmt::format("{} went to the {}.", kPeople[person], kPlaces[place]));
  }
  void take(int person, int thing) {
    holds[person] = thing, holder[thing] = person;
    comes_to(thing, person_at[person]);
    facts.push_back(fmt::format("{} took the {}.", kPeople[person], kThings[thing]));
  }
  void drop(int person) {
    const int thing = holds[person];
    holder[thing] = holds[person] = kUnknown;
    facts.push_back(fmt::format("{} dropped the {}.", kPeople[person], kThings[thing]));
  }
  /// Nobody has it, and it is here or, not having been seen yet, may be.
  bool can_take(int person, int thing) const {
    return holds[person] == kUnknown && holder[thing] == kUnknown &&
           (places[thing].empty() || places[thing].back() == person_at[person]);
  }

  void act(bool with_things, Random& random) {
    const int person = one_of(kPeople, random), thing = one_of(kThings, random), place = one_of(kPlaces, random);
    const double luck = random.uniform();
    if (with_things && person_at[person] != kUnknown && luck < .4) {
      if (can_take(person, thing)) return take(person, thing);
      if (holds[person] != kUnknown && luck < .15) return drop(person);
    }
    if (place != person_at[person]) go(person, place);
  }
};

}  // namespace

std::span<const std::string_view> story_places() { return kPlaces; }

Story tell_story(Random& random, int supports, std::int64_t facts) {
  require(supports >= 1 && supports <= 3 && facts >= supports,
          "a story of {} facts with {} that decide: expected 1 to 3, and no more than there are", facts, supports);
  for (;;) {
    World world;
    while (std::ssize(world.facts) < facts) world.act(supports > 1, random);
    if (supports == 1) {
      const int person = one_of(kPeople, random), place = world.person_at[person];
      if (place == kUnknown) continue;
      return {world.facts, fmt::format("Where is {}?", kPeople[person]), fmt::format("{} is in the", kPeople[person]),
              std::string(kPlaces[place])};
    }
    const int thing = one_of(kThings, random);
    const auto& places = world.places[thing];
    if (std::ssize(places) < supports - 1) continue;
    const auto name = kThings[thing];
    if (supports == 2)
      return {world.facts, fmt::format("Where is the {}?", name), fmt::format("The {} is in the", name),
              std::string(kPlaces[places.back()])};
    return {world.facts, fmt::format("Where was the {} before it was in the {}?", name, kPlaces[places.back()]),
            fmt::format("The {} was in the", name), std::string(kPlaces[places[places.size() - 2]])};
  }
}

Probe qa_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& filler, int supports,
               std::int64_t length) {
  const auto story = tell_story(random, supports, 4 + 4 * supports);
  std::vector<double> depths;
  for (std::size_t i = 0; i < story.facts.size(); ++i) depths.push_back(random.uniform());
  std::ranges::sort(depths);
  const auto start = filler.sentences.empty() ? 0 : random.below(filler.sentences.size());
  const auto draft = [&](Sentences sentences) {
    std::vector<std::string_view> all(sentences.begin(), sentences.end());
    for (std::size_t i = 0; i < story.facts.size(); ++i)
      all.insert(all.begin() + static_cast<std::ptrdiff_t>(border_at(sentences, depths[i]) + i), story.facts[i]);
    Draft result{fmt::format("{}\n\nQuestion: {}\nAnswer: {} {}", fmt::join(all, " "), story.question, story.reply,
                             story.answer),
                 {}};
    result.answers = {{result.text.size() - story.answer.size(), result.text.size()}};
    return result;
  };
  return fit_probe(tokenizer, filler, static_cast<std::size_t>(start), length, draft, kPlaces);
}

}  // namespace unbend::lm

/* stories_patterns.h - the sentence patterns and plots of the story grammar (signs: stories.c).
 *
 * A beat is one step of a story, told by one of its patterns.  Rules for a new pattern:
 *   - it starts unlike the others of its beat and of the beats that may stand in its place, so that
 *     the choice shows in its first words;
 *   - it is dense: a choice of words every two or three words, each as good as the next;
 *   - it is true whatever the slots hold, and <he> is the hero;
 *   - it opens no question that later beats do not answer.
 */
#ifndef STORIES_PATTERNS_H
#define STORIES_PATTERNS_H

#define PATTERNS_MAX 20

struct beat_text {
    const char *name;
    const char *patterns[PATTERNS_MAX + 1];
};

struct plot_text {
    const char *name;
    const char *steps;
};

static const struct beat_text BEAT_TEXTS[] = {
    /* ---- Openings: who, and where home is. ---- */
    {"open", {
        "In {a} {look} {colour} house <home> lived {a} <trait> <H.girl> named <H>.",
        "Once there was {a} <trait> <H.girl> called <H>, who loved to {hobby} and {hobby}.",
        "<H> was {a} <trait> <H.girl> who lived <home> with {num} {beasts} and {a} {small} "
        "{beast}.",
        "{A} <trait> <H.girl> lived <home> with {num} {small} {beasts}. <His> name was <H>.",
        "<H> lived <home>, where the air smelled of {smell} and {smell}.",
        "Long ago, in {a} {look} cottage <home>, <H> learned to {hobby} and {hobby}.",
        "Every {weekday}, <H>, {a} <trait> <H.girl>, {went} to {spot} to {hobby}.",
        "Nobody <home> was as <trait> as <H>, who could {hobby} and {hobby} {gladly}.",
        "Little <H> had {a} {colour} {cloth}, {num} {look} {bits} and {a} <trait> heart.",
        "Among the {beasts} and {beasts} <home> lived <H>, {a} <trait> <H.girl>.",
        "`I like {smell}, {food} and {colour} {bits},` {said} <H>, {a} <trait> <H.girl> from a "
        "house <home>.",
        "You could always tell <H> by <his> {colour} {cloth} and <his> {look} {colour} {cloth}.",
        "Behind {a} {colour} door <home> lived <H> and {a} {small} {beast}.",
        "When <H> was {num}, <he> moved to {a} {colour} house <home>.",
        "Of all the {trait} children <home>, <H> was the most <trait> and the most {trait}.",
        "This is the story of <H>, {a} <trait> <H.girl> with {a} {colour} {cloth}."}},
    {"more", {
        "[<He>|<H>] kept {stuff} and {stuff} in <his> {colour} {cloth}.",
        "In <his> pocket <he> carried {stuff}, {stuff} and {num} {bits}.",
        "Beside <his> bed stood {a} {look} {box} full of {colour} {bits}.",
        "What <he> liked best was {food} with {food}, and {game} {perch}.",
        "<His> best friend was {a} {small} {beast} that often {did} {perch}.",
        "Most days <he> played {game} or {game} with {num} {small} {beasts}.",
        "People said that <he> could {hobby} better than {a} {small} {beast} could {hobby}.",
        "Sometimes {a} {small} {beast} {did} {perch}, and <he> drew it in {colour} chalk."}},

    /* ---- Things seen on the way; they belong to every plot. ---- */
    {"scene", {
        "{A} {small} {beast} {did} {perch}.",
        "{Num} {colour} {lights} {shone} in the {weather} light.",
        "The air smelled of {smell}, {smell} and {smell}.",
        "{Num} clouds like {look} {shape} {sailed} over {spot}.",
        "From {spot} came the smell of {food} and {smell}.",
        "Near {spot} {a} {small} {beast} {did}, and {num} {beasts} {did}.",
        "It was {a} {weather} {weekday} in {month}, and {a} {small} {beast} {did} {perch}.",
        "Somebody played {a} {look} {music} {perch}.",
        "Along came {num} {small} {beasts}, one of them with {a} {colour} {cloth}.",
        "Over {spot} hung {a} {colour} cloud like {a} {look} {thing}.",
        "All was {weather} and still, only {a} {small} {beast} {did}."}},
    {"way", {
        "&P They {went} past {spot}, over {spot} and down to {spot}.",
        "&P Side by side the two friends {went} from {spot} to {spot}.",
        "&P At {spot} they met {a} {small} {beast}, and at {spot} {num} {colour} {beasts}.",
        "&P <P> carried {stuff}, <H> carried {stuff}, and both sang.",
        "&P First they {went} to {spot}, then {num} steps to the [left|right].",
        "!P <He> {went} past {spot}, over {spot} and on to {spot}.",
        "!P On the way <he> met {a} {small} {beast} and {num} {colour} {beasts}.",
        "!P Humming {a} {look} song, <he> {went} from {spot} to {spot}.",
        "!P Up the road <he> {went}, carrying {stuff} and {stuff}.",
        "!P It was {num} hundred steps to {spot}, and {num} hundred more to {spot}."}},
    {"talk", {
        "&P `Have you ever seen {num} {colour} {many}?` {asked} <P>. `Only {num},` laughed <H>.",
        "&P `If I were {a} {beast},` {said} <P>, `I would live {perch} and eat {food}.`",
        "&P `My {look} {thing} smells of {smell},` {said} <P>. `Mine smells of {smell},` {said} "
        "<H>.",
        "&P They talked about {food}, about {bits} and about {num} {colour} {many}.",
        "&P <P> told a joke about {a} {beast} and {a} {beast}, and they {laughed} for {num} "
        "{unit}.",
        "&P `Guess what I have here,` {said} <P>. It was {stuff}.",
        "&P <H> counted {num} {colour} {many}, and <P> counted {num}."}},

    /* ---- People who come in. ---- */
    {"meet", {
        "Just then <his> {friend} <P> came by with {stuff} and {stuff}.",
        "Along the road came <P>, {a} {look} {box} under one arm.",
        "<P>, who lived near {spot}, {went} over to see <him>.",
        "At {spot} <he> met <his> {friend} <P>, who was eating {food}.",
        "<His> {friend} <P> was sitting {perch} with {a} {small} {beast}.",
        "{A} {colour} {cloth} came round the corner, and in it was <his> {friend} <P>.",
        "`{Hello}!` called <P> {gladly}, waving {a} {colour} {cloth}.",
        "Then somebody whistled {perch}. It was <P> with {stuff}."}},
    {"elder", {
        "Next door lived <E> with {num} {beasts} and {a} {small} {beast}.",
        "<E> lived near {spot} in a house full of {bits} and {bits}.",
        "Nobody told better stories than <E>, who wore {a} {colour} {cloth}.",
        "[<He>|<H>] often {went} to <E>, who had {a} {look} {colour} {house} and {look} {bits}.",
        "Down by {spot} lived <E> in {a} {look} {colour} house.",
        "<H> was very fond of <E>, who knew all about {bits} and {beasts}.",
        "A {look} {colour} lamp {shone} where <E> lived with {num} {small} {beasts}."}},
    {"ask", {
        "`Why do you look so {bad}?` {asked} <P>.",
        "`What is the matter?` <P> {asked} {gladly}.",
        "<P> {quickly} {put} down {stuff} and {asked}, `What makes you so {bad}?`",
        "`You look {bad} and {bad} today,` {said} <P>.",
        "Seeing <H> so {bad}, <P> offered <him> some {food}.",
        "With {a} {look} {cloth} <P> dried <his> tears. `Tell me,` <P.he> {said} {gladly}."}},
    {"cheer", {
        "`We will do it together,` <P> {said} {gladly}.",
        "`Do not worry,` {said} <P>. `{A} {beast} would give up, but we will not.`",
        "<P> {gave} <him> {stuff}. `This is for luck,` <P.he> {said}.",
        "`First some {food},` {said} <P>, `and then we shall see.`",
        "`I was {bad} once too,` {said} <P>, `and it passed in {num} minutes.`",
        "{Then} <P> took <his> hand and held it {gladly}."}},
    {"snack", {
        "{Then} they shared some {food}, some {food} and {stuff}.",
        "<E> set out {food}, {food} and {num} {colour} plates.",
        "Soon there was {food} on the table, and the room smelled of {smell}.",
        "`Eat!` {said} <E>, and brought {food} and {food}.",
        "After that they sat {perch} and ate {food} with {food}.",
        "{Then} it smelled of {smell} and {smell}: <E> had {food} and {food}."}},

    /* ---- Feelings and last lines. ---- */
    {"joy", {
        "<H> was as {good} as {simile}.",
        "<He> felt {good} and {good}, and <his> heart beat like {a} {look} {music}.",
        "`Hurrah!` <H> {said}, and {went} {num} times around {spot}.",
        "What {a} {weather} {daypart} it was! <H> {laughed} {gladly}.",
        "All at once <H> felt {good}, as {good} as {simile}.",
        "Even {a} {small} {beast} {perch} looked as {good} as {simile}.",
        "A {look} smile came over <his> face, as bright as {num} {colour} {lights}."}},
    {"close", {
        "That night <he> dreamed of {num} {colour} {many} and {a} {small} {beast}.",
        "&home In the {look} {house} <home> {a} {colour} lamp {shone}, and all felt {good}.",
        "&home At the {house} <home>, {num} {lights} {shone}, and <H> {laughed} {gladly}.",
        "&trait So {a} <trait> <H.girl> was {good} and {good} and {good}.",
        "&trait {A} <trait> <H.girl> {stood} {perch} that {daypart}, {good} and {good}.",
        "&P And <P> and <H> stayed friends for {num} years and {num} more.",
        "&P `Tomorrow again?` {asked} <P>. `Tomorrow again,` {said} <H> {gladly}.",
        "&P The two friends {went} home, {good} and {good}, under {num} {colour} clouds.",
        "&E !P <E> hung {a} {colour} {cloth} at the window, and <H> waved back {gladly}.",
        "&E `Good night,` {said} <E>. `Sleep well, little {beast}.`",
        "Under <his> {look} {colour} blanket, <H> soon slept like {a} {small} {beast}.",
        "Outside, {a} {small} {beast} {did} {perch}, and the stars came out one by one.",
        "It had been the best {weekday} in {month}, and the most {weather} one.",
        "At supper there was {food}, and <he> told the whole story {num} times."}},

    /* ---- Plot: something lost is found where it was put. ---- */
    {"lost_have", {
        "<His> dearest treasure was {a} {look} <hue> <thing>.",
        "<H> had {a} {look} <hue> <thing> and took it to {spot}, to {spot} and even to bed.",
        "In {month} someone {gave} <him> {a} {look} <hue> <thing> and {stuff}.",
        "There was one thing <he> would not give for {num} {beasts}: {a} {look} <hue> <thing>.",
        "Better than {num} {bits} and {num} {bits} <he> liked <his> {look} <hue> <thing>."}},
    {"lost_put", {
        "One {weather} {daypart} <he> {put} it <hide> and {went} off to {hobby}.",
        "On {a} {weather} {weekday} <he> {quickly} {put} the <thing> <hide>, so that no {beast} "
        "could take it.",
        "Before [breakfast|lunch|school|supper] <he> {quickly} {put} it <hide> and {went} to "
        "{spot}.",
        "`Stay here, {look} <thing>,` <he> {said} {gladly}, and {quickly} {put} it <hide>.",
        "One {weekday} in {month} the <thing> was left <hide> while <H> {went} to {spot}."}},
    {"lost_play", {
        "{Then} <he> played {game} and {game}, and forgot all about it.",
        "The day was full of other things: {game}, {food} and {a} {small} {beast}.",
        "There was {food} for lunch, and after that {game} with {num} {beasts}.",
        "{Then} <he> was busy with {stuff}, {stuff} and {num} {bits}."}},
    {"lost_miss", {
        "{Num} {unit} later <H> {looked} for the <thing>, {bad} and {bad}.",
        "But where was the <thing>? <H> grew {bad} and {bad}.",
        "`Where is my <thing>?` <he> {said} {sadly}.",
        "After {num} {unit} of {game}, <he> felt {bad} and {bad}: where was the <thing>?"}},
    {"lost_search", {
        "[<He>|<H>] looked {hide} and {hide}, but found only {stuff} and {stuff}.",
        "There was nothing {hide}, and nothing {hide} but {a} {small} {beast}.",
        "[<He>|<H>] emptied {a} {look} {box} and found {num} {bits}, {stuff} and {stuff}, but no "
        "<thing>.",
        "First <he> searched {hide}, then {hide}, and at last {hide}."}},
    {"lost_tell", {
        "`My <hue> <thing> is lost,` <H> {said} {sadly}.",
        "`I {quickly} {put} my {look} <thing> somewhere,` {said} <H> {sadly}, `but where?`",
        "<H> told <P> {sadly} about the <thing>, about {spot} and about {num} {bits}."}},
    {"lost_think", {
        "`Close your eyes and think back,` {said} <P>. <H> thought of {smell}, of {game}, of {a} "
        "{beast}, and then <he> knew.",
        "`Let us walk the way you walked,` {said} <P>, and they {went} to {spot} and back.",
        "`What did you do before {game}?` {asked} <P>. <H> [gasped|jumped up|{began} to "
        "smile|clapped]."}},
    {"lost_find", {
        "There, <hide>, {stood} the <hue> <thing>, {look} and {look} as ever.",
        "[<He>|<H>] {quickly} {looked} <hide>: the <hue> <thing>, {look} and {look}!",
        "Something {look} and <hue> {shone} <hide>: the <thing>!",
        "<Hide> {stood} the <thing>, a bit {look}, a bit {look}, but safe."}},
    {"lost_end", {
        "From that day the <thing> had its own place in {a} {look} {box}.",
        "<He> tied {a} {look} {colour} {cloth} to the <thing> and {gladly} {put} it {perch}.",
        "`Next time I will remember,` <he> told the <thing> {gladly}.",
        "For {num} {unit} <P> {gladly} played {game} with the <thing>, and then <H> did."}},

    /* ---- Plot: a gift made in secret. ---- */
    {"gift_day", {
        "On {a} {weather} {weekday} in {month}, <E> would be {num} times {num} years old.",
        "`My birthday is in {num} days,` {said} <E> one {weather} {daypart}.",
        "`In {month} I shall be {num} times {num},` {said} <E> {gladly}.",
        "One {weather} {daypart} in {month} it was the birthday of <E>, and {num} {beasts} knew "
        "it."}},
    {"gift_think", {
        "`I have only {stuff} and {num} {look} {bits},` {thought} <H> {sadly}. What now?",
        "<H> had {stuff}, {num} {bits} and no money at all. So the gift had to be made.",
        "{Bits}? {Bits}? {Stuff}? `No,` {thought} <H>, `something {look} made by hand!`",
        "`[Shall|Should] I give {food}, {food} or {stuff}?` <H> wondered. None of it was right."}},
    {"gift_make", {
        "[<He>|<H>] took {matter}, {matter} and {colour} {matter} and {began} to make {a} {look} "
        "<hue> <craft>.",
        "Out of {matter} and {colour} {matter} <he> made {a} {look} <hue> <craft>.",
        "For {num} {unit} <he> worked with {matter} and {matter}, and it became {a} {look} <hue> "
        "<craft>.",
        "{A} {look} <hue> <craft>! That was it, and <he> {went} to find {matter} and {matter}."}},
    {"gift_trouble", {
        "It broke {num} times, and {num} times <he> began again.",
        "Once {a} {small} {beast} sat on the <craft>, and once it fell into the {smell}.",
        "One side came out {look} and the other {look}, but <he> did not stop.",
        "When <E> came {looked} in, <H> {quickly} {put} it {hide}.",
        "By {weekday} the <craft> was still too {look}, so <he> added {num} {bits}."}},
    {"gift_give", {
        "On the birthday <H> {quickly} {went} to <E> and held out the <craft>. `It is {look},` "
        "<he> said {sadly}.",
        "{Then} the day came. Wrapped in {a} {colour} {cloth}, the <craft> lay on the table.",
        "`This is for you,` <H> {said} {gladly}, and {gave} <E> the <hue> <craft>.",
        "Out of {look} {colour} paper, {matter} and {matter} came the <hue> <craft>."}},
    {"gift_thanks", {
        "`I have been given {bits}, {food} and {stuff},` {said} <E>, `but nothing as dear as "
        "this.`",
        "<E> {looked} at it for {num} {unit}. `{A} {look} one, and {a} {look} one!` <E.he> {said} "
        "{gladly}.",
        "`How {look}!` <E> {said} {gladly}. `I will keep it for {num} times {num} years.`",
        "Tears stood in the eyes of <E>, who felt {good} and {good}."}},
    {"gift_end", {
        "To this day the <hue> <craft> stands between {num} {bits} and {a} {look} {thing}.",
        "Every {weekday} <E> showed the <craft> to the {num} {beasts}.",
        "And the <craft>, {look} and {look}, got a place {perch}."}},

    /* ---- Plot: a fear that turns out small. ---- */
    {"fear_have", {
        "But one thing made <him> {bad}, {bad} and {bad}: <fear>.",
        "But <H>, {good} as <he> was, was {bad} and {bad} because of <fear>.",
        "`I like {beasts}, {beasts} and even {small} {beasts},` <he> {said}, `but not <fear>.`",
        "There was a secret, too: <fear> frightened <him> more than {num} {small} {beasts}."}},
    {"fear_day", {
        "One {weather} {weekday} <he> had to <fear.1>.",
        "One {weather} {weekday}, after {game} and {food}, <he> had to <fear.1>.",
        "For {a} {look} {thing} that was left behind, <he> had to <fear.1> one {weather} "
        "{daypart}.",
        "One {weather} {weekday} in {month}, between {game} and {food}, <he> had to <fear.1>."}},
    {"fear_stop", {
        "<His> knees went {look}, and <his> face turned {colour}.",
        "[<He>|<H>] stood there for {num} {unit}, {bad} and {bad}.",
        "`I cannot,` <he> {said} {sadly}, and sat down {perch}.",
        "[<He>|<H>] took {num} steps and {went} back again.",
        "<His> heart jumped like {a} {small} {beast}."}},
    {"fear_plan", {
        "`Take {num} slow breaths, think of {food}, and hold my {colour} {cloth},` {said} <P>.",
        "`I was afraid of {beasts},` {said} <P>, `until I counted {num} of them. Let us count.`",
        "`Even {a} {trait} {beast} is afraid,` {said} <P> {gladly}. `Sing about {food}!`",
        "`Put {stuff} in your pocket,` {said} <P>, `and say {num} times: I can.`"}},
    {"fear_do", {
        "{Then} <H> {thought} of {food} and {quickly} {began} to <fear.1>. And see: <fear.2>!",
        "{Gap} <he> {began}, {sadly} at first, {gladly} at last. Why, <fear.2>!",
        "`One, two, [three|go|now|up]!` <he> {said}, {bad} and {good} at once. Oh, but <fear.2>!",
        "{Quickly} <H> {went} on for {num} {unit} and {looked}: <fear.2>."}},
    {"fear_end", {
        "{Then} <H> {laughed} {gladly}. <His> fear was no bigger than {a} {small} {beast}.",
        "`Is that all?` <he> {laughed}. `I {thought} for {num} {unit}, and for what?`",
        "Since then <he> has taught {num} {small} {beasts} to be as {good} as {simile}.",
        "A week later <he> {went} alone, {stuff} in one hand and {stuff} in the other."}},

    /* ---- Plot: two friends, one thing, hard words, and peace. ---- */
    {"row_find", {
        "One {weather} {daypart} <H> and <his> {friend} <P> {found} {a} {look} <hue> <thing> "
        "{perch}.",
        "On {a} {weather} {weekday} <H> and <P> were playing {game} when they {found} {a} {look} "
        "<hue> <thing> {perch}.",
        "At {spot} <H> and <his> {friend} <P> won {a} {look} <hue> <thing> at {game}.",
        "<H> and <P> were given {a} {look} <hue> <thing> for carrying {stuff} to {spot}."}},
    {"row_fight", {
        "`It is mine!` <H> {said}. `No, mine!` <P> {said}.",
        "Both {took} the <thing> and pulled {gladly}. `You {small} {beast}!` {said} <P>.",
        "`I saw it first,` {said} <H>. `I held it first,` {said} <P>, `you {small} {beast}!`",
        "First they argued for {num} {unit}, and then for {num} more."}},
    {"row_part", {
        "{Then} <H> {went} one way and <P> {went} the other, and the <thing> lay {perch}.",
        "<P> {went} home past {spot}, and <H> sat {perch} with the <thing>.",
        "In the end <P> kept the <thing>, and <H> {went} home to {spot}, {bad} and {bad}.",
        "{Bad} and {bad}, they did not speak for {num} {weather} days."}},
    {"row_alone", {
        "But alone, {game} was dull, and even {food} tasted of {smell}.",
        "Without <P> the day was long. <H> counted {num} {bits} and felt {bad}.",
        "<H> tried {game} with {a} {small} {beast}, but it only {did}.",
        "`{A} <thing> cannot play {game} or {hobby},` {thought} <H> {sadly}."}},
    {"row_sorry", {
        "{Then} <he> took some {food} and {went} to <P>. `{Sorry},` <he> said {sadly}.",
        "On {a} {weather} {weekday} <H> knocked at the {colour} door of <P>. `{Sorry},` <he> "
        "{said}.",
        "{Then} <P> came with {stuff}. `{Sorry},` {said} <P>. `So am I,` <H> {said}.",
        "At {spot} both {said} `{Sorry}` and {laughed} {gladly}."}},
    {"row_share", {
        "<H> has it on {weekday}, <P> on {weekday}, and {a} {small} {beast} on {weekday}.",
        "{Then} they drew {a} {look} {colour} line: one half for <P>, one for <H>, and {num} "
        "{bits} for {a} {beast}.",
        "`I keep it for {num} {unit} and you for {num} {unit},` {said} <P> {gladly}.",
        "[Together|Side by side|Hand in hand|Laughing] they gave the <hue> <thing> to {a} {small} "
        "child near {spot}."}},

    /* ---- Plot: helping a neighbour. ---- */
    {"help_need", {
        "One {weather} {daypart} <E> stood {perch}, {bad} and {bad}. The <job> <job.1>.",
        "After {a} {weather} {weekday} the <job> of <E> <job.1>, and {num} {beasts} {did} {perch}.",
        "`{Oh},` <E> {said} {sadly}. `My <job> <job.1>!`",
        "In {month} <H> {found} {a} {small} {beast} behind the {house} of <E>. The <job> <job.1>."}},
    {"help_offer", {
        "`I have {a} {tool} and {a} {tool},` <H> {said} {gladly}. `May I help?`",
        "[<He>|<H>] put on {a} {colour} {cloth}. `Let me help you,` <he> {said}.",
        "`You are only {num} years old,` {said} <E>. `But I have {a} {tool},` {said} <H> {gladly}.",
        "Without a word <H> {went} home and came back with {a} {tool} and {a} {tool}."}},
    {"help_work", {
        "<H> and <E> used {a} {look} {tool}, {a} {tool} and {num} {look} {bits}.",
        "It was hard. {Num} times the {tool} slipped, and once it hit {a} {look} {thing}.",
        "<H> held the {tool}, and <E> held the {tool}, and {a} {small} {beast} {did} {perch}.",
        "{Then} they worked for {num} {unit}, until their hands were {colour} and {look}."}},
    {"help_done", {
        "[Together|Side by side|Hand in hand|Laughing] they {gladly} <job.2>, and {a} {small} "
        "{beast} {did}.",
        "{Gap} they <job.2>, {num} {look} {bits} and all.",
        "<H> and <E> {gladly} <job.2>, as {good} as {simile}.",
        "In {num} {unit} <H> and <E> {gladly} <job.2>."}},
    {"help_thanks", {
        "`{Thanks},` <E> {said} {gladly}. `You are worth {num} {beasts}.`",
        "<E> {gave} <him> {stuff} and {num} {colour} {bits}.",
        "`{Thanks},` {said} <E> {gladly}. `Now you need {food}, and I need {food}.`",
        "<E> {laughed} {gladly}, as {good} as {simile}, and {gave} <him> {stuff}."}},
    {"help_end", {
        "`Next time I will call you first,` {said} <E>, `you {good} little {beast}.`",
        "Every {weekday} since then <E> and <H> {ate} {food} and {food}.",
        "After work they {stood} {perch} and {chatted} about {beasts}, {bits} and {game}.",
        "`You are {a} {good} helper,` {said} <E> {gladly}, `and {a} {trait} one.`"}},

    /* ---- Plot: a seed, and waiting. ---- */
    {"plant_get", {
        "One {weather} {daypart} <E> {gave} <him> {a} {look} <seed> seed, no bigger than {a} "
        "{beast}'s eye.",
        "`Here is {a} <seed> seed,` {said} <E>. `It is {look}, but it wants to be {look}.`",
        "Between {look} {bits} and {look} {bits}, <E> and <H> {found} {a} <seed> seed.",
        "On {a} {weather} {weekday} <H> swapped {stuff} for {a} <seed> seed and showed it to <E>."}},
    {"plant_dig", {
        "[<He>|<H>] dug a hole <ground>, {num} fingers deep, and {put} the {look} seed inside.",
        "{Then} the {look} seed went into the earth <ground>, with {num} {colour} {bits} around "
        "it.",
        "`Sleep well, {look} seed,` <he> {said} {gladly}, and {quickly} {put} it <ground>.",
        "With {a} {look} {tool} <he> made a bed <ground> and {put} the {look} seed in it."}},
    {"plant_wait", {
        "[<He>|<H>] {gladly} watered it on {weekday} and on {weekday}, {num} {look} cups each.",
        "{Num} days went by, and {num} more, and there was only {a} {small} {beast} on the earth.",
        "Each {daypart} <he> {looked}: earth, {bits} and {a} {small} {beast}.",
        "`Are you {small} or {small}?` <he> {asked} {sadly}, but the seed was still."}},
    {"plant_doubt", {
        "<H> grew {bad}. `I will dig it up again,` <he> {said}.",
        "`It will never come,` <he> {said} {sadly}.",
        "<His> face was {bad}. `{A} {beast} has eaten it,` <he> {said}.",
        "{Bad} and {bad}, <H> {stood} {perch} and waited."}},
    {"plant_advice", {
        "`Wait,` {said} <E>. `I waited {num} weeks for my {colour} roses.`",
        "`A seed is like {a} {small} {beast},` {said} <E> {gladly}. `It comes when you are quiet.`",
        "<E> {laughed}. `Give it {num} cups of water and {num} {weather} days.`",
        "`I waited {num} days once,` {said} <E> {gladly}, `and learned to {hobby} and {hobby}.`"}},
    {"plant_sprout", {
        "One {weather} {daypart} {a} {look} green tip {stood} <ground>.",
        "On {a} {weather} {weekday} something {look} and {look} {shone} <ground>.",
        "After {num} more days there was a green shoot <ground>, with {num} {look} leaves.",
        "`{Quick}!` <H> {said}. There, <ground>, was something {look} and green."}},
    {"plant_grow", {
        "The <seed> plant grew as high as {a} {beast}, and then as high as {a} {look} {tool}.",
        "{Then} the <seed> plant had {num} leaves, and {a} {small} {beast} {did} in its shade.",
        "By the end of the summer, the <seed> plant was as {good} as {simile}.",
        "Up and up {went} the <seed> plant, {look} and {look}, and {num} {small} {beasts} {did}."}},
    {"plant_end", {
        "`The {trait} wait,` {said} <E> {gladly}, `and the {trait} wait too.`",
        "In the fall <he> {gave} <E> {num} new seeds, {num} {bits} and {stuff}.",
        "<He> told everybody at {spot} how <he> had waited, even the {beasts}.",
        "Next year there shall be {num} of them, <he> said, and {colour} {bits} all around."}},

    /* ---- Plot: a storm, and shelter. ---- */
    {"storm_go", {
        "One {weather} {daypart} <H> and <his> {friend} <P> {went} to <spot> to {hobby}.",
        "On {a} {weather} {weekday} <H> met <his> {friend} <P>, and they {went} to <spot> to "
        "{hobby}.",
        "`Come with me to <spot>,` {said} <his> {friend} <P>. `We can {hobby} there.`",
        "With {food} in {a} {look} {box}, <H> and <his> {friend} <P> set out for <spot>."}},
    {"storm_start", {
        "At first it was {weather}, but then the sky turned {colour} and {colour}.",
        "{Then} they had played {game} for {num} {unit} when the wind {began} to howl.",
        "{Then} {num} {look} {colour} clouds {sailed} over <spot>, and big drops fell.",
        "Then it thundered {num} times, and {a} {small} {beast} ran for home."}},
    {"storm_run", {
        "`{Quick}!` <P> {said}. They {went} past {spot} and found a dry place <shelter>.",
        "{Then} they held {a} {colour} {cloth} over their heads until they were safe <shelter>.",
        "`{Quick}!` {said} <H>. <Shelter> it was dry, and {bad} and wet they {went} in.",
        "There was no {house}, but <shelter> was room for two, {num} {bits} and {a} {small} "
        "{beast}."}},
    {"storm_inside", {
        "There they {ate} {food} and played {game}, while the rain drummed.",
        "<H> told a story about {num} {colour} {many} and {a} {small} {beast}.",
        "<H> had {stuff}, and <P> had {stuff}. With that they played {game}.",
        "It smelled of {smell} and {smell}, and {a} {small} {beast} {did} next to them."}},
    {"storm_brave", {
        "`Are you {bad}?` {asked} <P>. `Not when you are here,` <H> {said} {gladly}.",
        "`Let us sing about {num} {colour} {many},` {said} <P>, and they sang {gladly}.",
        "At every thunder they shouted `{Food}!` and {laughed} {gladly}.",
        "When <P> grew {bad}, <H> took <P.his> hand and counted to {num}."}},
    {"storm_over", {
        "After {num} {unit} the rain stopped, and {a} {look} rainbow {shone} over {spot}.",
        "{Then} it grew {weather}, and <spot> smelled of {smell}, {smell} and {smell}.",
        "They {looked} out {gladly}: <spot> was {weather}, and the sky {colour} and {colour}.",
        "The wind lay down like {a} {small} {beast}, and <spot> was {weather} again."}},
    {"storm_end", {
        "They left {num} {bits}, {stuff} and their names in {colour} chalk: <H> and <P>.",
        "Their castle, they call that place, and keep {stuff} and {num} {bits} there.",
        "One {weather} {weekday} they {brought} {food}, {food} and {num} {bits} there for the "
        "next storm."}},

    /* ---- Plot: a small lie, and the truth. ---- */
    {"lie_break", {
        "One {weather} {daypart} <H> played {game} at the house of <E>. Crash! The <hue> <china> "
        "{broke}.",
        "On {a} {weather} {weekday}, with {a} {colour} {cloth}, <H> knocked over the {look} <hue> "
        "<china> of <E>. It {broke} in {num} {look} pieces.",
        "<E> had {a} {look} <hue> <china>. <H> {wanted} to dust it {gladly}, but it slipped, and "
        "there lay {num} {look} pieces.",
        "While <H> played {game}, the {look} <hue> <china> of <E> fell down and {broke} in {num} "
        "{look} pieces."}},
    {"lie_hide", {
        "{Quickly} <he> {put} the pieces in {a} {look} {box} and hid it <hide>.",
        "<H> turned {colour} and {quickly} {put} the pieces <hide>.",
        "Nobody had seen it but {a} {small} {beast}. <He> {quickly} {put} the pieces <hide>.",
        "<He> wrapped the pieces in {a} {colour} {cloth} and {quickly} {put} them <hide>."}},
    {"lie_tell", {
        "`Where is my <china>?` {asked} <E>. `{A} {small} <blame> broke it,` <H> {said} {sadly}.",
        "When <E> {asked} about it, <H> {said}, `It was {a} {small} <blame>!`",
        "`{A} {small} {colour} <blame> {did} on it,` <he> told <E> {sadly}.",
        "`Who did that?` {asked} <E>. <H> {thought} for {num} seconds. `{A} {small} <blame>,` "
        "<he> {said}."}},
    {"lie_heavy", {
        "{Then} <E> gave the <blame> no {food} that day, and <H> felt {bad} and {bad}.",
        "The lie sat in <his> belly like {a} {look} stone, and even {food} tasted of {smell}.",
        "That night <he> lay awake and counted {num} {colour} {many}, {bad} and {bad}.",
        "Outside, the <blame> {did} {perch} and {looked} at <him> for {num} {unit}."}},
    {"lie_truth", {
        "In the {weather} morning <he> {went} to <E>. `No <blame> did it. I did,` <he> {said} "
        "{sadly}.",
        "On {a} {weather} {weekday} <he> {brought} all the pieces. `I {broke} it,` <he> {said} "
        "{sadly}.",
        "`It was no <blame>,` <H> {said} {sadly}. `I {broke} it, {look} as it was. {Sorry}.`",
        "After {num} {bad} {unit} <he> told <E> everything {sadly}, even about the <blame>."}},
    {"lie_forgive", {
        "<E> {looked} at <him> for {num} {unit}. `{A} {look} <china> can be mended,` <E.he> "
        "{said} {gladly}.",
        "`I knew it,` {said} <E> {gladly}. `{A} {small} <blame> does not {hobby}.`",
        "`It takes {a} {good} heart to say so,` <E> {said} {gladly}.",
        "{Then} <E> took <his> hand. `The truth is worth {num} {colour} {many}.`"}},
    {"lie_mend", {
        "{Then} they mended the <china> with glue, {matter} and {num} {bits}.",
        "[<He>|<H>] {gladly} worked with {a} {tool} for {num} days and {brought} <E> a new "
        "<china>.",
        "[Together|Side by side|Hand in hand|Laughing] they glued all the pieces, and only {num} "
        "{look} cracks were left.",
        "[<He>|<H>] gave <E> <his> own {colour} {thing} until the <china> was mended."}},
    {"lie_end", {
        "And the <blame> got {food} and {food} and {did} {perch}.",
        "[Even now|To this day] <H> feels {good} and {good} whenever <he> sees the <hue> <china>.",
        "`The truth is light,` <he> told {a} {small} {beast}, `and lies are heavy.`"}},

    /* ---- Plot: learning something hard. ---- */
    {"skill_want", {
        "More than {num} {look} {bits}, <he> {wanted} to <skill>.",
        "One {weather} {weekday} <he> {found} <E> {perch}. `Teach me to <skill>!` <he> {said} "
        "{gladly}.",
        "`Can you <skill>?` asked {a} {small} child near {spot}. `Not yet,` <H> {said} {sadly}.",
        "On {a} {weather} {weekday} <he> made up <his> mind: <he> {wanted} to <skill>."}},
    {"skill_fail", {
        "It went wrong on {weekday}, it went wrong on {weekday}, and <he> felt {bad}.",
        "The first try ended in {a} {look} {box} full of {bits}.",
        "{Num} times <he> tried, and {num} times it went wrong. {A} {small} {beast} {did}.",
        "`I am as clumsy as {a} {small} {beast},` <he> {said} {sadly}."}},
    {"skill_tip", {
        "`Try it slowly,` {said} <E>. `I needed {num} weeks and {num} plates of {food}.`",
        "<E> {laughed} {gladly}. `You think of {beasts}. Think of your hands.`",
        "`Every master was {bad} at first,` {said} <E>. `Eat some {food} and begin again.`",
        "`Do not look at the {beasts} or the {many}. Look ahead,` {said} <E>."}},
    {"skill_try", {
        "{Then} [<he>|<H>] practiced before {game}, after {game} and even on {weekday}.",
        "Every {daypart} <he> practiced {perch}, and {a} {small} {beast} {did}.",
        "[<He>|<H>] tried it with {a} {colour} {cloth} and with {a} {look} {thing}.",
        "For {num} {unit} <he> practiced, {num} minutes before lunch and {num} minutes after."}},
    {"skill_can", {
        "And one {weather} {weekday} it worked: <H> could <skill>!",
        "Then it happened. `I can <skill>!` <he> {said} {gladly}.",
        "After {num} more tries <he> could <skill>, as {good} as {simile}.",
        "{Gap} it went from {bad} to {good}, and by {month} <he> could <skill>."}},
    {"skill_show", {
        "<E> clapped {num} times. Even {a} {small} {beast} looked {good}.",
        "[<He>|<H>] showed it to <E>, to {num} {beasts} and to everybody at {spot}.",
        "`Now you can <skill>, and I am {good},` <E> {said}.",
        "There was {food} for everybody, and <E> {went} {num} times around {spot}."}},
    {"skill_end", {
        "On {a} {weather} {weekday} <H> {began} to teach {a} {small} child to <skill>.",
        "Next <he> will {gladly} learn to {hobby}, and then to {hobby}.",
        "`{Bad} on {weekday}, {good} on {weekday},` <he> {said} {gladly}."}},

    /* ---- Plot: half a lunch. ---- */
    {"lunch_pack", {
        "One {weather} {daypart} <he> packed some <lunch> and {stuff} and {went} to <spot>.",
        "For a day at <spot> <he> took some <lunch> in {a} {look} {box}.",
        "On {a} {weather} {weekday} there was <lunch> in <his> {colour} {box}, and <he> {went} to "
        "<spot>.",
        "`{Bits}, {stuff} and some <lunch>,` {said} <H> {gladly}, and {went} to <spot>."}},
    {"lunch_meet", {
        "There sat a child in {a} {colour} {cloth}. `I am <P>,` said the child, `and I am {bad}.`",
        "{A} {trait} <P.girl> {stood} {perch}. `I am <P>, and I am {bad} and hungry.`",
        "A new child named <P> stood {perch}, hungry and {bad}, in {a} {colour} {cloth}.",
        "`My name is <P>,` said a <P.girl> in {a} {colour} {cloth}. `{A} {small} {beast} ate my "
        "lunch.`"}},
    {"lunch_think", {
        "<H> {looked} at <his> lunch and {thought} for {num} seconds.",
        "<His> own belly growled like {a} {small} {beast}.",
        "`It is {look} and {look},` {thought} <H>, `but better than {stuff}.`",
        "It smelled of {smell} and {smell}, and <his> {look} belly {did}."}},
    {"lunch_share", {
        "{Then} [<he>|<H>] shared the <lunch>: {num} bites for <P>, {num} bites for <H>.",
        "`Half of my <lunch> is for you,` <he> {said} {gladly}.",
        "`Are you {good} with <lunch>?` {asked} <H> {gladly}. <P> {laughed} {num} times.",
        "{Then} [<he>|<H>] spread {a} {colour} {cloth} on the ground, and they shared the "
        "<lunch>."}},
    {"lunch_eat", {
        "{Then} they {ate} {perch}, and {a} {small} {beast} got the last bit.",
        "While they ate, they {chatted} about {bits}, {beasts} and {game}.",
        "It tasted better than {num} plates of {food}.",
        "{Then} <P> was no longer {bad} but {good}."}},
    {"lunch_turn", {
        "{Num} {unit} later <H> stood in the rain, {bad} and {bad}, and <P> {brought} {a} "
        "{colour} {cloth}.",
        "On {a} {weather} {weekday} <H> had forgotten <his> lunch. `Half of my {food} is for "
        "you,` {said} <P>.",
        "The next {weekday} <H> lost <his> {colour} {cloth} near {spot}. Who brought it back? It "
        "was <P>.",
        "At {spot} <H> had {a} {look} {box} to carry. {Then} <P> {took} one side, {gladly}."}},
    {"lunch_end", {
        "`You were {trait} to me,` {said} <P> {gladly}, `so I am {trait} to you.`",
        "Since then they eat <lunch> and {food} on {weekday} and {game} is played on {weekday}.",
        "`{Food} for one is {look},` {said} <P> {gladly}. `For two it is {look}.`"}},

    /* ---- Plot: an animal in trouble. ---- */
    {"resc_hear", {
        "One {weather} {daypart} <he> heard a [faint|soft|loud|strange|sad|tiny] {cry} near "
        "{spot}.",
        "On {a} {weather} {weekday}, on the way to {spot}, <he> heard something {cry} {sadly}.",
        "While <he> played {game} near {spot}, <he> heard {a} {small} voice.",
        "It was {weather}, and <he> was eating {food}, when something squeaked {sadly}."}},
    {"resc_see", {
        "{A} {small} <fur> <pet> was stuck <stuck>.",
        "There, <stuck>, {stood} {a} {small} <fur> <pet>, {bad} and {bad}.",
        "<H> {quickly} {looked} in: {a} {small} <fur> <pet> {stood} <stuck>, {bad} and {bad}.",
        "<H> {went} nearer: <stuck> was {a} {small} <fur> <pet>."}},
    {"resc_try", {
        "[<He>|<H>] {quickly} held out {stuff}, but it was {num} inches too {look}.",
        "[<He>|<H>] tried it with {stuff} and with {a} {look} {tool}, but it did not work.",
        "`Do not be {bad},` <he> {said} {gladly} to the <pet>. `{A} {good} friend will help.`",
        "{Gap} <he> held out {food} and {food}, but the <pet> only {did}."}},
    {"resc_tell", {
        "`{Look_here}, {a} <pet>!` <H> {said}. `Please help me.`",
        "`{Quick}, we need {a} {tool}!` <H> {said}. `The <pet> is stuck.`",
        "<H> pointed at the <pet>, and <P> {went} to get {a} {look} {tool}."}},
    {"resc_do", {
        "<P> {took} the {tool}, <H> the {tool}, and {gladly} they freed the <pet>.",
        "With {a} {tool} and {a} {tool} they worked for {num} {unit}, and out came the <pet>.",
        "`{Quick}! One, two, [three|go|now|up]!` <P> {said} {gladly}, and out came the <pet>.",
        "{Gap}, with {a} {look} {tool} and some {matter}, they freed the <pet>."}},
    {"resc_warm", {
        "It smelled of {smell}, and they wrapped it in {a} {colour} {cloth}.",
        "{Then} they gave the <pet> some {food}, and it ate {num} bites.",
        "The <pet> {did} and {did}, and then leaned against <his> hand.",
        "<P> dried it with {a} {colour} {cloth}, and <H> sang about {num} {many}."}},
    {"resc_name", {
        "`We will call you <petname>,` <H> {said} {gladly}.",
        "`<petname>!` {said} <P>. `That is a good name for {a} {look} <pet>.`",
        "{Then} they named the <pet> <petname>, because it was so {small}."}},
    {"resc_end", {
        "<petname> stayed, and slept in {a} {look} {box} by the stove.",
        "Its {small} mother {stood} {perch}, and {quickly} <petname> {went} to her.",
        "{Then} <petname> follows <H> to {spot} and <P> to {spot}.",
        "Every {daypart} <petname> {did} {perch} with <H> and <P>."}},

    /* ---- Plot: a journey to see something. ---- */
    {"trip_want", {
        "More than {num} {look} {bits}, <he> wished to see <sight>.",
        "`What does <sight> look like?` <he> asked {a} {small} {beast}. It only {did}.",
        "<He> kept {num} {colour} pictures of <sight> {perch} in {a} {look} {box}.",
        "At {spot}, at {spot} and at {spot} they {chatted} about <sight>. How <he> {wanted} to "
        "go!"}},
    {"trip_go", {
        "`Let us go and see <sight>,` {said} <P>, and they packed {food}, {stuff} and {stuff}.",
        "One {weather} {daypart} <P> and <H> set out with {stuff} and some {food}.",
        "<P> packed {food} and {stuff}, <H> packed {food} and {stuff}, and off they {went}.",
        "{Then} they said goodbye to the {beasts} and took {stuff}, {stuff} and some {food}."}},
    {"trip_snag", {
        "{Then} the road ended at {a} {look} river, and there was no bridge.",
        "After {num} miles <H> was {bad} and <P> was {bad}.",
        "At the crossroads stood {num} signs, all too {look} to read.",
        "{A} {small} {beast} stood in the way and would not move."}},
    {"trip_fix", {
        "`Let us follow the {beasts},` {said} <P>, and that was right.",
        "`I have {stuff},` {said} <H> {gladly}, `and {stuff}.` That helped.",
        "{A} {small} old man in {a} {colour} {cloth} showed them another way.",
        "{Then} they rested {perch}, ate {food}, and found a better path."}},
    {"trip_there", {
        "{Then}, between {spot} and {spot}, {shone} <sight>!",
        "At {num} o'clock they {stood} before it, {bad} and {good}.",
        "`{Look_here}!` <P> {said} {gladly}. There was <sight>, as bright as {num} {colour} "
        "{lights}."}},
    {"trip_see", {
        "It was bigger than {num} {many} and brighter than {num} {colour} {lights}.",
        "All around it smelled of {smell} and {smell}, and {num} {beasts} {did}.",
        "<H> said nothing for {num} {unit}. `{Colour} and {colour},` whispered <P>.",
        "{Then} they {looked} and {looked}, until {a} {small} {beast} {did} on their shoes."}},
    {"trip_end", {
        "{Then} they took home {num} {look} {bits}, so as not to forget it.",
        "`Where do we go next?` {asked} <P>. `To {spot},` {laughed} <H> {gladly}, `or to {spot}.`",
        "At home <H> drew <sight> in {colour}, {colour} and {colour}."}},

    /* ---- Plot: building something that falls down once. ---- */
    {"make_want", {
        "One {weather} {daypart} <H> and <his> {friend} <P> {wanted} to build {a} {look} <hue> "
        "<raft>.",
        "`Let us build {a} {look} <hue> <raft>,` {said} <his> {friend} <P> {gladly} to <H>.",
        "On {a} {weather} {weekday} <his> {friend} <P> drew {a} {look} <hue> <raft> on {a} {look} "
        "stone. `Can we build it?`",
        "With {num} {look} boards, <H> and <his> {friend} <P> began {a} {look} <hue> <raft>."}},
    {"make_find", {
        "{Then} they found {matter} {hide}, {matter} {hide} and {num} {look} {bits}.",
        "<P> brought {a} {tool} and {matter}, and <H> brought {a} {tool} and {num} {bits}.",
        "From {spot} they carried {matter}, {matter} and {num} pots of paint.",
        "For some {food} they got {a} {tool}, {a} {tool} and {num} {bits}."}},
    {"make_work", {
        "<P> held, <H> tied, and {a} {small} {beast} {did} {perch}.",
        "{Then} they worked on {weekday} and on {weekday} and sang about {num} {colour} {many}.",
        "The {tool} was {look} and the {tool} was {look}, but they did not stop.",
        "Their hands turned {colour}, their noses {colour}, and their shoes {colour}."}},
    {"make_fail", {
        "Then came {num} {small} {beasts}, and crash, the <raft> fell down.",
        "But it was too {look}, and on {weekday} it {broke} in {num} {look} pieces.",
        "One {weather} {daypart} the <raft> {broke} in {num} {look} pieces.",
        "{Then} <P> {did}, <H> {did}, and down came the <raft>."}},
    {"make_fix", {
        "`It needs more {matter},` {said} <P>. `And {num} more {bits},` <H> {said}.",
        "<H> was {bad}, but <P> {laughed} {gladly}. `The second one is always better!`",
        "`We forgot the {matter}!` <H> {said}. So they began again.",
        "This time they used {matter}, {matter} and {num} {bits}."}},
    {"make_done", {
        "In the end there it stood, <hue> and {look}, with {a} {colour} {cloth} on top.",
        "{Num} {unit} later it was ready, {look} and {look}, <hue> and {colour}.",
        "`Done!` <P> {said} {gladly}, and the <hue> <raft> {shone} in the {weather} light."}},
    {"make_use", {
        "{Num} {small} {beasts} came to look, and one of them {did} on the <raft>.",
        "{Then} they called it <petname> and gave a party with {food} and {food}.",
        "First <P> tried it, then <H>, then {a} {small} {beast}.",
        "Every {daypart} they played {game} there, and every {daypart} they {ate} {food}."}},
};

/* Told before the plot is known; it must not know P or E. */
#define PROLOGUE_TEXT "open ?more ?scene"

static const struct plot_text PLOT_TEXTS[] = {
    {"lost", "lost_have lost_put / lost_play lost_miss lost_search meet lost_tell / lost_think "
             "lost_find ?joy ?lost_end close"},
    {"gift", "gift_day gift_think / gift_make gift_trouble ?scene / gift_give gift_thanks ?snack "
             "gift_end close"},
    {"fear", "fear_have fear_day fear_stop / meet ask fear_plan ?cheer / fear_do joy fear_end "
             "close"},
    {"quarrel", "/ row_find row_fight row_part / row_alone row_sorry / talk row_share ?joy close"},
    {"help", "/ help_need help_offer help_work ?scene help_done / help_thanks snack help_end "
             "close"},
    {"plant", "/ plant_get plant_dig plant_wait ?scene plant_doubt plant_advice / plant_sprout "
              "plant_grow ?joy plant_end close"},
    {"storm", "/ storm_go storm_start storm_run / storm_inside talk storm_brave / storm_over ?joy "
              "storm_end close"},
    {"lie", "/ lie_break lie_hide lie_tell lie_heavy / lie_truth lie_forgive lie_mend ?joy "
            "lie_end close"},
    {"skill", "elder skill_want / skill_fail skill_tip skill_try ?scene / skill_can skill_show "
              "?joy skill_end close"},
    {"lunch", "/ lunch_pack ?scene lunch_meet lunch_think lunch_share / lunch_eat talk "
              "lunch_turn lunch_end close"},
    {"rescue", "/ resc_hear resc_see resc_try meet resc_tell / resc_do resc_warm resc_name "
               "?joy resc_end close"},
    {"journey", "trip_want meet / trip_go way trip_snag trip_fix / trip_there trip_see "
                "?talk trip_end close"},
    {"build", "/ make_want make_find make_work ?scene make_fail / make_fix make_done "
              "make_use ?joy close"},
};

#endif

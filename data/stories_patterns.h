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
        "<He> kept {stuff} and {stuff} in <his> {colour} {cloth}.",
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
        "It was {a} {weather} {weekday} in <month>, and {a} {small} {beast} {did} {perch}.",
        "Somebody played {a} {look} {music} {perch}.",
        "Along came {num} {small} {beasts}, one of them with {a} {colour} {cloth}.",
        "Over {spot} hung {a} {colour} cloud like {a} {look} {thing}.",
        "All was {weather} and still, only {a} {small} {beast} {did}."}},
    {"way", {
        "&P They {went} past {spot}, over {spot} and down to {spot}.",
        "&P Side by side the two friends {went} from {spot} to {spot}.",
        "&P At {spot} they met {a} {small} {beast}, and at {spot} {num} {colour} {beasts}.",
        "&P Between them they carried {stuff} and {stuff}, and both sang.",
        "&P First they {went} to {spot}, then {num} steps to the [left|right].",
        "!P <He> {went} past {spot}, over {spot} and on to {spot}.",
        "!P On the way <he> met {a} {small} {beast} and {num} {colour} {beasts}.",
        "!P Humming {a} {look} song, <he> {went} from {spot} to {spot}.",
        "!P Up the road <he> {went}, carrying {stuff} and {stuff}.",
        "!P It was {num} hundred steps to {spot}, and {num} hundred more to {spot}."}},
    {"talk", {
        "&P `Have you ever seen {num} {colour} {many}?` {asked} <P>. `Only {num},` was the answer.",
        "&P `If I were {a} {beast},` {said} <his> friend, `I would live {perch} and eat {food}.`",
        "&P `My {look} {thing} smells of {smell},` {said} <P>. `Mine smells of {smell},` was the "
        "answer.",
        "&P They talked about {food}, about {bits} and about {num} {colour} {many}.",
        "&P <His> friend told a joke about {a} {beast} and {a} {beast}, and they {laughed} for "
        "{num} {unit}.",
        "&P `Guess what I have here,` {said} <his> friend. It was {stuff}.",
        "&P One of them counted {num} {colour} {many}, the other {num}."}},

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
    {"snack", {
        "{Then} they shared some {food}, some {food} and {stuff}.",
        "On the table stood {food}, {food} and {num} {colour} plates.",
        "Soon there was {food} on the table, and the room smelled of {smell}.",
        "`Eat!` they heard, and there came {food} and {food}.",
        "After that they sat {perch} and ate {food} with {food}.",
        "{Then} it smelled of {smell} and {smell}: there came {food} and {food}."}},

    /* ---- Feelings and last lines. ---- */
    {"joy", {
        "<He> was as {good} as {simile}.",
        "<He> felt {good} and {good}, and <his> heart beat like {a} {look} {music}.",
        "`Hurrah!` <he> {said}, and {went} {num} times around {spot}.",
        "What {a} {weather} day it was! <He> {laughed} {gladly}.",
        "All at once <he> felt {good}, as {good} as {simile}.",
        "Even {a} {small} {beast} {perch} looked as {good} as {simile}.",
        "A {look} smile came over <his> face, as bright as {num} {colour} {lights}."}},
    {"close", {
        "That night <he> dreamed of {num} {colour} {many} and {a} {small} {beast}.",
        "&home In the {look} {house} <home> {a} {colour} lamp {shone}, and all felt {good}.",
        "&home At the {house} <home>, {num} {lights} {shone}, and <he> {laughed} {gladly}.",
        "&trait So {a} <trait> <H.girl> was {good} and {good} and {good}.",
        "&trait {A} <trait> <H.girl> {stood} {perch} that night, {good} and {good}.",
        "&P And <P> and <H> stayed friends for {num} years and {num} more.",
        "&P `Tomorrow again?` {asked} <his> friend {gladly}. `Tomorrow again!` was the answer.",
        "&P The two friends {went} home, {good} and {good}, under {num} {colour} clouds.",
        "&E !P <E> hung {a} {colour} {cloth} at the window, and <he> waved back {gladly}.",
        "&E `Good night,` {said} <E>. `Sleep well, little {beast}.`",
        "Under <his> {look} {colour} blanket, <he> soon slept like {a} {small} {beast}.",
        "Outside, {a} {small} {beast} {did} {perch}, and the stars came out one by one.",
        "It had been {a} {good} day, {a} {weather} day, {a} {look} day.",
        "At supper <he> had {food} and {food}, and <he> told the whole story {num} times."}},

    /* ---- Plot: something lost is found where it was put. ---- */
    {"lost_have", {
        "<He> had {a} {look} <hue> <thing> and took it to {spot}, to {spot} and even to bed.",
        "In <month> someone {gave} <him> {a} {look} <hue> <thing> and {stuff}.",
        "There was one thing <he> would not give for {num} {beasts}: {a} {look} <hue> <thing>.",
        "Better than {num} {bits} and {num} {bits} <he> liked <his> {look} <hue> <thing>."}},
    {"lost_put", {
        "One {weather} {daypart} <he> {put} it <hide> and {went} off to {hobby}.",
        "On {a} {weather} {weekday} <he> {quickly} {put} it <hide>, so that no {beast} could take "
        "it.",
        "Before [breakfast|lunch|school|supper] <he> {quickly} {put} it <hide> and {went} to "
        "{spot}.",
        "`Stay here, {look} thing,` <he> {said} {gladly}, and {quickly} {put} it <hide>."}},
    {"lost_play", {
        "{Then} <he> played {game} and {game}, and forgot all about it.",
        "The day was full of other things: {game}, {food} and {a} {small} {beast}.",
        "For lunch <he> had {food}, and after that came {game} with {num} {beasts}.",
        "{Then} <he> was busy with {stuff}, {stuff} and {num} {bits}."}},
    {"lost_miss", {
        "{Num} {unit} later <he> {sought} for it, {bad} and {bad}.",
        "But where was it now? <He> grew {bad} and {bad}.",
        "`Where is it now?` <he> {sighed} {sadly}.",
        "After {num} {unit} of {game}, <he> felt {bad} and {bad}: where was it?"}},
    {"lost_search", {
        "<He> looked {hide} and {hide}, but found only {stuff} and {stuff}.",
        "There was nothing {hide}, and nothing {hide} but {a} {small} {beast}.",
        "<He> emptied {a} {look} {box} and found {num} {bits}, {stuff} and {stuff}, and that was "
        "all.",
        "First <he> searched {hide}, then {hide}, and at last {hide}."}},
    {"lost_tell", {
        "`My <thing> is lost,` <he> {sighed} {sadly}.",
        "`I {quickly} {put} my {look} <thing> somewhere,` <he> {sighed} {sadly}, `but where?`",
        "<He> told <his> friend {sadly} about it, about {spot} and about {num} {bits}."}},
    {"lost_think", {
        "`Close your eyes and think back,` {said} <his> friend. <He> thought of {smell}, of "
        "{game}, of {a} {beast}, and then <he> knew.",
        "`Let us walk the way you walked,` {said} <his> friend, and they {went} to {spot} and "
        "back.",
        "`What did you do before {game}?` {asked} <his> friend. <He> [gasped|jumped up|{began} to "
        "smile|clapped]."}},
    {"lost_find", {
        "There, <hide>, {lay} the <hue> <thing>, {look} and {look} as ever.",
        "<He> {quickly} {looked} <hide>: there it was, {look} and <hue>!",
        "Something {look} and <hue> {shone} <hide>: the <thing>!",
        "<Hide> {lay} the <thing>, a bit {look}, a bit {look}, but safe."}},
    {"lost_end", {
        "From that day it had its own place in {a} {look} {box}.",
        "<He> tied {a} {look} {colour} {cloth} to it and {gladly} {put} it {perch}.",
        "`{Look_here}, here you are!` <he> {said} {gladly} to it.",
        "For {num} {unit} <his> friend {gladly} played {game} with it, and then <he> did."}},

    /* ---- Plot: a gift made in secret. ---- */
    {"gift_day", {
        "On {a} {weather} {weekday} in <month>, <E> would be {num} times {num} years old.",
        "`My birthday is in {num} days,` {said} <E> one {weather} {daypart}.",
        "`In <month> I shall be {num} times {num},` {said} <E> {gladly}.",
        "One {weather} {daypart} in <month> it was the birthday of <E>, and {num} {beasts} knew "
        "it."}},
    {"gift_think", {
        "`I have only {stuff} and {num} {look} {bits},` <he> {mused} {sadly}. What now?",
        "<He> had {stuff}, {num} {bits} and no money at all. So the gift had to be made.",
        "{Bits}? {Bits}? {Stuff}? `No,` <he> {mused}, `something {look} made by hand!`",
        "`[Shall|Should] I give {food}, {food} or {stuff}?` <he> wondered. None of it was right."}},
    {"gift_make", {
        "<He> took {matter}, {matter} and {colour} {matter} and {began} to make {a} {look} <hue> "
        "<craft>.",
        "Out of {matter} and {colour} {matter} <he> made {a} {look} <hue> <craft>.",
        "For {num} {unit} <he> worked with {matter} and {matter}, and it became {a} {look} <hue> "
        "<craft>.",
        "{A} {look} <hue> <craft>! That was it, and <he> {went} to find {matter} and {matter}."}},
    {"gift_trouble", {
        "Once {a} {small} {beast} sat on it, and once it fell into the {smell}.",
        "One side came out {look} and the other {look}, but <he> did not stop.",
        "When someone {went} by, <he> {quickly} {put} it {hide}.",
        "By {weekday} it was still too {look}, so <he> added {num} {bits}."}},
    {"gift_give", {
        "On the birthday <he> {quickly} {went} to <E> and held it out. `It is {look},` <he> said "
        "{sadly}.",
        "{Then} the day came. Wrapped in {a} {colour} {cloth}, the gift lay on the table.",
        "`This is for you,` <he> {said} {gladly}, and {gave} <E> the <craft>.",
        "Out of {look} {colour} paper, {matter} and {matter} came the <craft>."}},
    {"gift_thanks", {
        "`I have been given {bits}, {food} and {stuff},` {said} <E>, `but nothing as dear as "
        "this.`",
        "`{A} {look} one, and {a} {look} one!` {said} <E> {gladly} after {num} {unit}.",
        "`How {look}!` <E> {said} {gladly}. `I will keep it for {num} times {num} years.`",
        "Tears stood in the eyes of <E>, who felt {good} and {good}."}},
    {"gift_end", {
        "To this day it stands between {num} {bits} and {a} {look} {thing}.",
        "Every {weekday} <E> showed it to the {num} {beasts}.",
        "And the gift, {look} and {look}, got a place {perch}."}},


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
        "Both held it and pulled {gladly}. `You {small} {beast}!` {said} <P>.",
        "`I saw it first,` {said} <H>. `I held it first,` {said} <P>, `you {small} {beast}!`",
        "First they argued for {num} {unit}, and then for {num} more."}},
    {"row_part", {
        "{Then} <H> {went} one way and <P> {went} the other, and it lay {perch}.",
        "<P> {went} home past {spot}, and <H> sat {perch} with it.",
        "In the end <P> kept it, and <H> {went} home to {spot}, {bad} and {bad}.",
        "{Bad} and {bad}, they did not speak for {num} {weather} days."}},
    {"row_alone", {
        "But alone, {game} was dull, and even {food} tasted of {smell}.",
        "Without <P> the day was long. <He> counted {num} {bits} and felt {bad}.",
        "<He> tried {game} with {a} {small} {beast}, but it only {did}.",
        "`{A} <thing> cannot play {game} or {hobby},` <he> {mused} {sadly}."}},
    {"row_sorry", {
        "{Then} <he> took some {food} and {went} to <P>. `{Sorry},` <he> said {sadly}.",
        "On {a} {weather} {weekday} <he> knocked at the {colour} door of <P>. `{Sorry},` <he> "
        "{said}.",
        "{Then} <P> came with {stuff}. `{Sorry},` both {said} {gladly}.",
        "At {spot} both {said} `{Sorry}` and {laughed} {gladly}."}},
    {"row_share", {
        "One of them has it on {weekday}, one on {weekday}, and {a} {small} {beast} on {weekday}.",
        "{Then} they drew {a} {look} {colour} line: one half for one, one for the other, and "
        "{num} {bits} for {a} {beast}.",
        "`I keep it for {num} {unit} and you for {num} {unit},` {said} <his> friend {gladly}.",
        "[Together|Side by side|Hand in hand|As a team] they gave the <hue> <thing> to {a} "
        "{small} child near {spot}."}},


    /* ---- Plot: a seed, and waiting. ---- */
    {"plant_get", {
        "One {weather} {daypart} <E> {gave} <him> {a} {look} <seed> seed, no bigger than {a} "
        "{look} button.",
        "`Here is {a} <seed> seed,` {said} <E>. `It is {look}, but it wants to be {look}.`",
        "Between {look} {bits} and {look} {bits}, <E> and <H> {found} {a} <seed> seed.",
        "On {a} {weather} {weekday} <he> swapped {stuff} for {a} <seed> seed and showed it to "
        "<E>."}},
    {"plant_dig", {
        "<He> dug a hole <ground>, {num} fingers deep, and {put} the {look} seed inside.",
        "{Then} the {look} seed went into the earth <ground>, with {num} {colour} {bits} around "
        "it.",
        "`Sleep well, {look} seed,` <he> {said} {gladly}, and {quickly} {put} it <ground>.",
        "With {a} {look} {tool} <he> made a bed <ground> and {put} the {look} seed in it."}},
    {"plant_wait", {
        "<He> {gladly} watered it on {weekday} and on {weekday}, {num} {look} cups each.",
        "{Num} days went by, and {num} more, and there was only {a} {small} {beast} on the earth.",
        "Each {daypart} <he> {looked}: earth, {bits} and {a} {small} {beast}.",
        "`Are you {small} or {small}?` <he> {asked} {sadly}, but the seed was still."}},
    {"plant_doubt", {
        "<He> grew {bad}. `I will dig it up again,` <he> {said}.",
        "`It will never come,` <he> {sighed} {sadly}.",
        "<His> face was {bad}. `{A} {beast} has eaten it,` <he> {said}.",
        "{Bad} and {bad}, <he> {stood} {perch} for {num} {unit}."}},
    {"plant_advice", {
        "`I waited {num} weeks for my {colour} roses,` {said} <E>.",
        "`A seed is like {a} {small} {beast},` {said} <E> {gladly}. `It comes when you are quiet.`",
        "`Give it {num} cups of water and {num} {weather} days,` {said} <E> {gladly}.",
        "`I waited {num} days once,` {said} <E> {gladly}, `and learned to {hobby} and {hobby}.`"}},
    {"plant_sprout", {
        "One {weather} {daypart} {a} {look} green tip {stood} <ground>.",
        "On {a} {weather} {weekday} something {look} and {look} {shone} <ground>.",
        "After {num} more days there was a green shoot <ground>, with {num} {look} leaves.",
        "`{Quick}!` <he> {said}. There, <ground>, was something {look} and green."}},
    {"plant_grow", {
        "The plant grew as high as {a} {beast}, and then as high as {a} {look} {tool}.",
        "{Then} the plant had {num} leaves, and {a} {small} {beast} {did} in its shade.",
        "By the end of the summer, the <seed> plant was as {look} as {simile}.",
        "Up and up {went} the plant, {look} and {look}, and {num} {small} {beasts} {did}."}},
    {"plant_end", {
        "`Waiting makes us {trait},` {said} <E> {gladly}, `and {trait} as well.`",
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
        "At first it was {weather}, but then the sky turned {paint} and {paint}.",
        "{Then} they had played {game} for {num} {unit} when the wind {began} to howl.",
        "{Then} {num} {look} {colour} clouds {sailed} up, and big drops fell.",
        "Then it thundered {num} times, and {a} {small} {beast} ran for home."}},
    {"storm_run", {
        "`{Quick}!` the other {said}. They {went} past {spot} and found a dry place <shelter>.",
        "{Then} they held {a} {colour} {cloth} over their heads until they were safe <shelter>.",
        "`{Quick}!` <he> {said}. <Shelter> it was dry, and {bad} and wet they {went} in.",
        "There was no {house}, but <shelter> was room for two, {num} {bits} and {a} {small} "
        "{beast}."}},
    {"storm_inside", {
        "There they {ate} {food} and played {game}, while the rain drummed.",
        "<He> told a story about {num} {colour} {many} and {a} {small} {beast}.",
        "One had {stuff}, one had {stuff}. With that they played {game}.",
        "It smelled of {smell} and {smell}, and {a} {small} {beast} {did} next to them."}},
    {"storm_brave", {
        "`Are you {bad}?` {asked} <P>. `Not with you,` <he> {said} {gladly}.",
        "`Let us sing about {num} {colour} {many},` {said} <his> friend, and they sang {gladly}.",
        "At every thunder they shouted `{Food}!` and {laughed} {gladly}.",
        "When <P> grew {bad}, they held hands and counted to {num}."}},
    {"storm_over", {
        "After {num} {unit} the rain stopped, and {a} {look} rainbow {shone} over {spot}.",
        "{Then} it grew {weather}, and the air smelled of {smell}, {smell} and {smell}.",
        "They {looked} out {gladly}: all was {weather}, and the sky {paint} and {paint}.",
        "The wind lay down like {a} {small} {beast}, and all was {weather} again."}},
    {"storm_end", {
        "They left {num} {bits}, {stuff} and their names in {colour} chalk: <H> and <P>.",
        "Their castle, they call that place, and keep {stuff} and {num} {bits} there.",
        "One {weather} {weekday} they {brought} {food}, {food} and {num} {bits} there for the "
        "next storm."}},



    /* ---- Plot: half a lunch. ---- */
    {"lunch_pack", {
        "One {weather} {daypart} <he> packed some <lunch> and {stuff} and {went} to <spot>.",
        "For a day at <spot> <he> took some <lunch> in {a} {look} {box}.",
        "On {a} {weather} {weekday} <he> had <lunch> in {a} {look} {colour} {box} and {went} to "
        "<spot>.",
        "`{Bits}, {stuff} and some <lunch>,` <he> {said} {gladly}, and {went} to <spot>."}},
    {"lunch_meet", {
        "There sat a child in {a} {colour} {cloth}. `I am <P>,` said the child, `and I am {bad}.`",
        "{A} {trait} <P.girl> {stood} {perch}. `I am <P>, and I am {bad} and hungry.`",
        "A new child named <P> stood {perch}, hungry and {bad}, in {a} {colour} {cloth}.",
        "`My name is <P>,` said a <P.girl> in {a} {colour} {cloth}. `{A} {small} {beast} ate my "
        "lunch.`"}},
    {"lunch_think", {
        "<He> {looked} at <his> lunch and {thought} for {num} seconds.",
        "<His> own belly growled like {a} {small} {beast}.",
        "`It is {look} and {look},` <he> {mused}, `but better than {stuff}.`",
        "It smelled of {smell} and {smell}, and <his> {look} belly {did}."}},
    {"lunch_share", {
        "{Then} <he> shared the <lunch>: {num} bites for one, {num} bites for the other.",
        "`Take half of my <lunch>,` <he> {said} {gladly}.",
        "`Would you like some <lunch>?` {asked} <H> {gladly}. The other child {laughed} {num} "
        "times.",
        "{Then} <he> spread {a} {colour} {cloth} on the ground, and they shared the <lunch>."}},
    {"lunch_eat", {
        "{Then} they {ate} {perch}, and {a} {small} {beast} got the last bit.",
        "While they ate, they {chatted} about {bits}, {beasts} and {game}.",
        "It tasted better than {num} plates of {food}.",
        "{Then} <P> was no longer {bad} but {good}."}},
    {"lunch_turn", {
        "{Num} {unit} later <he> stood in the rain, {bad} and {bad}, and <P> {gladly} lent <him> "
        "{a} {colour} {cloth}.",
        "On {a} {weather} {weekday} <he> had forgotten <his> lunch. `Take half of my {food},` "
        "{said} <P>.",
        "The next {weekday} <he> lost <his> {colour} {cloth} near {spot}. Who brought it back? It "
        "was <P>.",
        "At {spot} <he> had {a} {look} {box} to carry. {Then} <P> {gladly} took one side."}},
    {"lunch_end", {
        "`You were {trait} to me,` {said} <his> new friend {gladly}, `so I am {trait} to you.`",
        "Since then they eat <lunch> and {food} on {weekday} and play {game} on {weekday}.",
        "`{Food} for one is {look},` {said} <his> friend {gladly}. `For two it is {look}.`"}},

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
        "<He> {quickly} {looked} in: {a} {small} <fur> <pet> {stood} <stuck>, {bad} and {bad}.",
        "<He> {went} nearer: <stuck> was {a} {small} <fur> <pet>."}},
    {"resc_try", {
        "<He> {quickly} held out {stuff}, but it was {num} inches too "
        "[short|long|thick|thin|wide|narrow|soft|heavy].",
        "<He> tried it with {stuff} and with {a} {look} {tool}, but it did not work.",
        "`Do not be {bad},` <he> {said} {gladly} to it. `{A} {good} friend will help.`",
        "{Gap} <he> held out {food} and {food}, but it only {did}."}},
    {"resc_tell", {
        "`{Look_here}, {a} <pet>!` <he> {said}. `Please help me.`",
        "`{Quick}, we need {a} {tool}!` <he> {said}. `Something is stuck.`",
        "<He> pointed, and <P> {went} to get {a} {look} {tool}."}},
    {"resc_do", {
        "One {took} the {tool}, one the {tool}, and {gladly} they freed the <pet>.",
        "With {a} {tool} and {a} {tool} they worked for {num} {unit}, and out came the <pet>.",
        "`{Quick}! One, two, [three|go|now|up]!` <his> friend {said} {gladly}, and out it came.",
        "{Gap}, with {a} {look} {tool} and some {matter}, they set it free."}},
    {"resc_warm", {
        "It smelled of {smell}, and they wrapped it in {a} {colour} {cloth}.",
        "{Then} they gave it some {food}, and it ate {num} bites.",
        "It {did} and {did}, and then leaned against <his> hand.",
        "They dried it with {a} {colour} {cloth} and sang about {num} {many}."}},
    {"resc_name", {
        "`We will call you <petname>,` <he> {said} {gladly}.",
        "`<petname>!` {said} <his> friend. `That is a good name for {a} {look} one.`",
        "{Then} they named it <petname>, because it was so {small}."}},
    {"resc_end", {
        "{Then} it stayed, and slept in {a} {look} {box} by the stove.",
        "Its {small} mother {stood} {perch}, and {quickly} it {went} to her.",
        "[Ever since|Even now] it follows them to {spot} and to {spot}.",
        "Every {daypart} it {did} {perch} with the two."}},

    /* ---- Plot: a journey to see something. ---- */
    {"trip_want", {
        "More than {num} {look} {bits}, <he> wished to see <sight>.",
        "`What does <sight> look like?` <he> asked {a} {small} {beast}. It only {did}.",
        "<He> kept {num} {colour} pictures of <sight> under <his> bed in {a} {look} {box}.",
        "At {spot}, at {spot} and at {spot} they {chatted} about <sight>. How <he> {wanted} to "
        "go!"}},
    {"trip_go", {
        "`Let us go and see it,` {said} <his> friend, and they packed {food}, {stuff} and {stuff}.",
        "One {weather} {daypart} the two set out with {stuff} and some {food}.",
        "One packed {food} and {stuff}, one {food} and {stuff}, and off they {went}.",
        "{Then} they said goodbye to the {beasts} and took {stuff}, {stuff} and some {food}."}},
    {"trip_snag", {
        "{Then} the road ended at {a} {look} river, and there was no bridge.",
        "After {num} miles one was {bad}, and one was {bad}.",
        "At the crossroads stood {num} signs, all too {look} to read.",
        "{A} {small} {beast} stood in the way and would not move."}},
    {"trip_fix", {
        "`Let us follow the {beasts},` {said} <his> friend, and that was right.",
        "`I have {stuff},` <he> {said} {gladly}, `and {stuff}.` That helped.",
        "{A} {small} old man in {a} {colour} {cloth} showed them another way.",
        "{Then} they rested {perch}, ate {food}, and found a better path."}},
    {"trip_there", {
        "{Then}, between {spot} and {spot}, {shone} <sight>!",
        "At {num} o'clock they stood before it, {bad} and {good}.",
        "`{Look_here}!` they {said} {gladly}. There was <sight>, as bright as {num} {colour} "
        "{lights}."}},
    {"trip_see", {
        "It was bigger than {num} {many} and brighter than {num} {colour} {lights}.",
        "All around it smelled of {smell} and {smell}, and {num} {beasts} {did}.",
        "They said nothing for {num} {unit}. `{Paint} and {paint},` one of them {said}.",
        "{Then} they {looked} and {looked}, until {a} {small} {beast} {did} on their shoes."}},
    {"trip_end", {
        "{Then} they took home {num} {look} {bits}, so as not to forget it.",
        "`Where do we go next?` {asked} <P>. `To {spot},` <he> {said} {gladly}, `or to {spot}.`",
        "At home <he> drew <sight> in {paint}, {paint} and {paint}."}},

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
        "One brought {a} {tool} and {matter}, one {a} {tool} and {num} {bits}.",
        "From {spot} they carried {matter}, {matter} and {num} pots of paint.",
        "For some {food} they got {a} {tool}, {a} {tool} and {num} {bits}."}},
    {"make_work", {
        "One held, one tied, and {a} {small} {beast} {did} {perch}.",
        "{Then} they worked on {weekday} and on {weekday} and sang about {num} {colour} {many}.",
        "The {tool} was {look} and the {tool} was {look}, but they did not stop.",
        "Their hands turned {paint}, their noses {paint}, and their shoes {paint}."}},
    {"make_fail", {
        "Then came {num} {small} {beasts}, and crash, it all fell down.",
        "But it was too {look}, and on {weekday} it {broke} in {num} {look} pieces.",
        "One {weather} {daypart} it {broke} in {num} {look} pieces.",
        "{Then} one {did}, one {did}, and down it came."}},
    {"make_fix", {
        "`It needs more {matter},` {said} <his> friend, `and {num} more {bits}.`",
        "<He> was {bad}, but <P> {laughed} {gladly}. `The second one is always better!`",
        "`We forgot the {matter}!` <he> {said}. So they began again.",
        "This time they used {matter}, {matter} and {num} {bits}."}},
    {"make_done", {
        "In the end there it stood, <hue> and {look}, with {a} {colour} {cloth} on top.",
        "{Num} {unit} later it was ready, {look} and {look}, <hue> and {look}.",
        "`Done!` <P> {said} {gladly}, and the <raft> {shone} in the {weather} light."}},
    {"make_use", {
        "{Num} {small} {beasts} came to look, and one of them {did} on it.",
        "{Then} they called it <petname> and gave a party with {food} and {food}.",
        "First one tried it, then the other, then {a} {small} {beast}.",
        "Every {daypart} they played {game} there, and every {daypart} they {ate} {food}."}},
};

/* Told before the plot is known; it must not know P or E. */
#define PROLOGUE_TEXT "open ?more ?scene"

static const struct plot_text PLOT_TEXTS[] = {
    {"lost", "lost_have lost_put / ?lost_play lost_miss lost_search meet lost_tell / lost_think "
             "lost_find ?joy ?lost_end close"},
    {"gift", "gift_day gift_think / gift_make gift_trouble ?scene / gift_give gift_thanks ?snack "
             "gift_end close"},
    {"quarrel", "/ row_find row_fight row_part / row_alone row_sorry / talk row_share ?joy close"},
    {"plant", "/ plant_get plant_dig plant_wait ?scene plant_doubt plant_advice / plant_sprout "
              "plant_grow ?joy plant_end close"},
    {"storm", "/ storm_go storm_start storm_run / storm_inside talk storm_brave / storm_over ?joy "
              "storm_end close"},
    {"lunch", "/ lunch_pack ?scene lunch_meet lunch_think lunch_share / lunch_eat talk "
              "lunch_turn lunch_end close"},
    {"rescue", "/ resc_hear resc_see resc_try meet resc_tell / resc_do resc_warm resc_name "
               "?joy resc_end close"},
    {"journey", "trip_want meet / trip_go way trip_snag trip_fix / trip_there trip_see "
                "trip_end close"},
    {"build", "/ make_want make_find make_work ?scene make_fail / make_fix make_done "
              "make_use ?joy close"},
};

#endif

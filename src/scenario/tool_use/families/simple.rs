//! Word problems of at most three steps, numbers up to 1000, at most 50 words.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Drawn, Family, pick};
use crate::scenario::tool_use::number::{Numeric, decimal};
use crate::scenario::tool_use::problem::Difficulty;

const NAMES: [&str; 24] = [
    "Amara", "Bilal", "Chloe", "Diego", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas",
    "Keiko", "Liam", "Mina", "Noah", "Olga", "Pavel", "Quinn", "Rosa", "Samir", "Tessa", "Umar",
    "Vera", "Wanda", "Yusuf",
];
const GOODS: [&str; 16] = [
    "notebooks",
    "pencils",
    "mugs",
    "candles",
    "postcards",
    "magnets",
    "brushes",
    "lanterns",
    "baskets",
    "scarves",
    "puzzles",
    "vases",
    "plates",
    "ribbons",
    "bowls",
    "towels",
];
const COLLECTED: [&str; 12] = [
    "stamps", "marbles", "shells", "stickers", "coins", "buttons", "beads", "cards", "pebbles",
    "badges", "acorns", "feathers",
];
const PACKED: [&str; 10] = [
    "apples", "oranges", "lemons", "eggs", "muffins", "peaches", "pears", "plums", "tiles", "bulbs",
];

fn family(
    name: &'static str,
    steps: u32,
    train: &'static [&'static str],
    test: &'static [&'static str],
    draw: fn(&mut ChaCha8Rng) -> Option<Drawn>,
) -> Family {
    Family {
        name,
        difficulty: Difficulty::Simple,
        steps,
        train,
        test,
        draw,
    }
}

/// Two different names.
fn names(rng: &mut ChaCha8Rng) -> [String; 2] {
    let first = rng.random_range(0..NAMES.len());
    let second = (first + rng.random_range(1..NAMES.len())) % NAMES.len();
    [NAMES[first].to_owned(), NAMES[second].to_owned()]
}

/// Numbers as slots `a`, `b`, …, with a name and an object.
fn slots(rng: &mut ChaCha8Rng, objects: &[&str], numbers: &[i64]) -> Vec<(&'static str, String)> {
    let [name, other] = names(rng);
    let mut slots = vec![
        ("name", name),
        ("other", other),
        ("item", pick(rng, objects).to_owned()),
    ];
    for (slot, number) in ["a", "b", "c", "d"].into_iter().zip(numbers) {
        slots.push((slot, number.to_string()));
    }
    slots
}

/// An instance with an integer answer up to 1000; parameters are the numbers.
fn whole(
    rng: &mut ChaCha8Rng,
    objects: &[&str],
    numbers: &[i64],
    answers: [i64; 2],
    program: String,
) -> Option<Drawn> {
    if !(2..=1000).contains(&answers[0]) {
        return None;
    }
    let slots = slots(rng, objects, numbers);
    Some(super::drawn(
        numbers,
        slots,
        answers.map(i128::from),
        program,
    ))
}

/// Hundredths as the shortest decimal.
fn hundredths(value: i64) -> Option<Numeric> {
    Numeric::parse(&decimal(i128::from(value), 100)?)
}

/// Money with two decimals: `$1.25`.
fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// `times` · `each` by adding.
fn repeated(each: i64, times: i64) -> i64 {
    (0..times).map(|_| each).sum()
}

/// The simple families.
pub(super) fn families() -> Vec<Family> {
    vec![
        family("change", 2, CHANGE_TRAIN, CHANGE_TEST, change),
        family("sharing", 2, SHARING_TRAIN, SHARING_TEST, sharing),
        family("two-boxes", 3, BOXES_TRAIN, BOXES_TEST, two_boxes),
        family("earnings", 2, EARNINGS_TRAIN, EARNINGS_TEST, earnings),
        family("journey", 3, JOURNEY_TRAIN, JOURNEY_TEST, journey),
        family("average", 3, AVERAGE_TRAIN, AVERAGE_TEST, average),
        family("unit-price", 2, PRICE_TRAIN, PRICE_TEST, unit_price),
        family("discount", 3, DISCOUNT_TRAIN, DISCOUNT_TEST, discount),
        family("ages", 2, AGES_TRAIN, AGES_TEST, ages),
        family("reading", 3, READING_TRAIN, READING_TEST, reading),
        family("rate", 2, RATE_TRAIN, RATE_TEST, rate),
        family("fence", 3, FENCE_TRAIN, FENCE_TEST, fence),
        family(
            "comparison",
            2,
            COMPARISON_TRAIN,
            COMPARISON_TEST,
            comparison,
        ),
    ]
}

const CHANGE_TRAIN: &[&str] = &[
    "{name} buys {a} {item} at ${b} each and pays with ${c}. How many dollars of change does {name} get?",
    "At a market stall {item} are sold for ${b} apiece. {name} takes {a} of them and hands over ${c}. How much money, in dollars, comes back?",
    "{name} had ${c} before ordering {a} {item}. If a single one costs ${b}, what amount in dollars is left after the order?",
    "With a budget of ${c}, a school orders {a} {item} for ${b} per piece. How many dollars of the budget remain unspent?",
];
const CHANGE_TEST: &[&str] = &[
    "The price tag on all {item} in the shop reads ${b}. After picking {a}, {name} gives the cashier ${c}. What is the change in dollars?",
    "{name}'s purse holds ${c}. Then {name} spends part of it on {a} {item}, each priced at ${b}. Find the number of dollars still in the purse.",
    "Someone gave {name} ${c} to fetch {a} {item}. Every one of these cost ${b}. How many dollars should {name} return?",
];

fn change(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (rng.random_range(2..=24), rng.random_range(2..=35));
    let c = a * b + rng.random_range(2..=180);
    if c > 1000 {
        return None;
    }
    let second = (0..a).fold(c, |left, _| left - b);
    let program = format!("cost = {a} * {b}\nprint({c} - cost)\n");
    whole(rng, &GOODS, &[a, b, c], [c - a * b, second], program)
}

const SHARING_TRAIN: &[&str] = &[
    "{name} has {a} {item} and gets {b} more from {other}. They are divided equally among {c} children. How many does each child get?",
    "After finding {b} {item}, {name} adds them to the {a} collected earlier and sorts all of them evenly into {c} jars. How many are in each jar?",
    "{name} brings {a} {item} and {other} brings {b}. A group of {c} people shares them fairly. How many does one person receive?",
    "A club owned {a} {item}, then was given {b}. The total is split into {c} equal piles. How large is a pile?",
];
const SHARING_TEST: &[&str] = &[
    "Two drawers hold {a} and {b} {item}. {name} empties both and fills {c} bags with the same number in every bag. How many go into one bag?",
    "{other} donates {b} {item} to a class that already has {a}. Each of the {c} pupils takes the same share until nothing is left. How big is the share?",
    "Put together, {name}'s {a} {item} and {other}'s {b} {item} fill {c} album pages completely, every page alike. Find the number on a page.",
];

fn sharing(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (c, each) = (rng.random_range(3..=15), rng.random_range(4..=60));
    let total = c * each;
    if !(20..=1000).contains(&total) {
        return None;
    }
    let a = rng.random_range(5..=total - 5);
    let b = total - a;
    // Dealing one to each until nothing is left.
    let mut rounds = 0;
    let mut left = a + b;
    while left > 0 {
        left -= c;
        rounds += 1;
    }
    let program = format!("total = {a} + {b}\nprint(total // {c})\n");
    whole(rng, &COLLECTED, &[a, b, c], [(a + b) / c, rounds], program)
}

const BOXES_TRAIN: &[&str] = &[
    "{name} packs {a} boxes with {b} {item} each and {c} boxes with {d} {item} each. How many {item} are packed?",
    "A van carries {a} crates of {b} {item} and {c} smaller crates of {d}. How many {item} does the van carry?",
    "On Monday {name} fills {a} trays, {b} {item} to a tray. On Tuesday it is {c} trays of {d}. What is the number of {item} on both days?",
    "There are {a} shelves with {b} {item} on every shelf, and {c} further shelves with {d} on every one. How many {item} stand on the shelves?",
];
const BOXES_TEST: &[&str] = &[
    "A bakery receives {a} cartons holding {b} {item} apiece, followed by {c} cartons holding {d} apiece. Count the {item} it received.",
    "{name} sells {item} in large bags of {b} and small bags of {d}. Today {a} large and {c} small bags went over the counter. How many {item} were sold?",
    "{other} counted {a} rows of {b} {item}; {name} counted {c} rows of {d} in another room. How many did the two count altogether?",
];

fn two_boxes(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let mut draw = || (rng.random_range(2..=20), rng.random_range(3..=40));
    let ((a, b), (c, d)) = (draw(), draw());
    if b == d {
        return None;
    }
    let second = repeated(b, a) + repeated(d, c);
    let program = format!("first = {a} * {b}\nsecond = {c} * {d}\nprint(first + second)\n");
    whole(
        rng,
        &PACKED,
        &[a, b, c, d],
        [a * b + c * d, second],
        program,
    )
}

const EARNINGS_TRAIN: &[&str] = &[
    "{name} works {a} hours for ${b} an hour and receives a bonus of ${c}. How many dollars does {name} earn?",
    "For {a} hours of gardening at an hourly wage of ${b}, plus ${c} for the tools, what is {name} paid in dollars?",
    "A plumber charges ${c} for coming and ${b} for every hour. What is the bill, in dollars, for {a} hours?",
    "{name} saves ${b} each week for {a} weeks and starts with ${c}. How many dollars are there at the end?",
];
const EARNINGS_TEST: &[&str] = &[
    "Renting a boat costs a fixed fee of ${c} and ${b} per hour on top. {name} keeps it for {a} hours. How many dollars must {name} pay?",
    "{name} delivers {a} parcels, gets ${b} for each, and finds a tip of ${c} in the evening. Find the day's income in dollars.",
    "A hall is rented at ${b} a day, with ${c} for cleaning added once. {other} needs the hall for {a} days. How much is due in dollars?",
];

fn earnings(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (rng.random_range(3..=30), rng.random_range(6..=40));
    let c = rng.random_range(5..=150);
    let second = (0..a).fold(c, |sum, _| sum + b);
    let program = format!("wage = {a} * {b}\nprint(wage + {c})\n");
    whole(rng, &GOODS, &[a, b, c], [a * b + c, second], program)
}

const JOURNEY_TRAIN: &[&str] = &[
    "{name} drives {a} hours at {b} km/h and then {c} hours at {d} km/h. How many kilometres is the whole drive?",
    "A train runs at {b} km/h for {a} hours, slows down, and runs at {d} km/h for another {c} hours. What distance in kilometres does it cover?",
    "On a tour {name} cycles {a} hours with a speed of {b} km per hour. After a rest come {c} hours at {d} km per hour. How long is the tour in kilometres?",
    "A ship keeps {b} km/h during {a} hours and {d} km/h during the next {c} hours. How many kilometres has it gone?",
];
const JOURNEY_TEST: &[&str] = &[
    "The first part of {name}'s trip takes {a} hours, covering {b} km in each; the second takes {c} hours, covering {d} km in each. Give the trip's length in kilometres.",
    "{name} and {other} share the wheel: {name} steers for {a} hours at {b} km/h, {other} for {c} hours at {d} km/h. How far do they get, in kilometres?",
    "A drone flew {a} hours at {b} km/h over fields and {c} hours at {d} km/h along a river. Find the length of its flight in kilometres.",
];

fn journey(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let mut draw = || (rng.random_range(2..=9), rng.random_range(12..=95));
    let ((a, b), (c, d)) = (draw(), draw());
    if b == d {
        return None;
    }
    // As if all were driven at the slower speed, plus what the faster part adds.
    let (slow, faster) = (b.min(d), if b > d { a } else { c });
    let second = repeated(slow, a + c) + repeated((b - d).abs(), faster);
    let program = format!("first = {b} * {a}\nsecond = {d} * {c}\nprint(first + second)\n");
    whole(rng, &GOODS, &[a, b, c, d], [a * b + c * d, second], program)
}

const AVERAGE_TRAIN: &[&str] = &[
    "In three games {name} scores {a}, {b} and {c} points. What is the average number of points in a game?",
    "{name} counts {item} on three days and finds {a}, {b} and {c}. How many is that per day on average?",
    "Three friends own {a}, {b} and {c} {item}. If they shared evenly, how many would each have?",
    "In May {name} found {a} {item}, in June {b} and in July {c}. Find the monthly mean.",
];
const AVERAGE_TEST: &[&str] = &[
    "{name}'s results in three quizzes were {a}, {b} and {c}. What is their arithmetic mean?",
    "Over three weekends {a}, {b} and {c} visitors came to a museum. How many visitors came on a weekend, on average?",
    "Boxes with {a}, {b} and {c} {item} are repacked so that all three hold equally many. How many are then in one?",
];

fn average(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let mut draw = || rng.random_range(8..=320);
    let (a, b, c): (i64, i64, i64) = (draw(), draw(), draw());
    let sum = a + b + c;
    if sum % 3 != 0 || sum > 1000 || a == b || b == c || a == c {
        return None;
    }
    // The mean is where the deviations cancel.
    let second = (a.min(b).min(c)..=a.max(b).max(c)).find(|m| (a - m) + (b - m) + (c - m) == 0)?;
    let program = format!("total = {a} + {b}\ntotal = total + {c}\nprint(total // 3)\n");
    whole(rng, &COLLECTED, &[a, b, c], [sum / 3, second], program)
}

const PRICE_TRAIN: &[&str] = &[
    "{name} buys {a} {item} at ${price} each and a bag for ${c}. How many dollars does {name} pay?",
    "One of the {item} costs ${price}. What do {a} of them cost together with delivery of ${c}, in dollars?",
    "For a party {name} gets a cake for ${c} and {a} {item} at a unit price of ${price}. What is the total in dollars?",
    "A ticket to the fair is ${c}. Inside, {name} chooses {a} {item} for ${price} apiece. How much is spent, in dollars?",
];
const PRICE_TEST: &[&str] = &[
    "{other} owes {name} ${c} already and now borrows money for {a} {item}, ${price} for every one. How many dollars is the debt?",
    "On a receipt stand one lamp at ${c} and {a} {item}, all at ${price}. Find the sum on the receipt in dollars.",
    "Wrapping costs ${c} once per order. {name} orders {a} {item}, whose price is ${price} per piece. Give the order's price in dollars.",
];

fn unit_price(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, cents) = (rng.random_range(2..=16), 5 * rng.random_range(10..=190));
    let c = rng.random_range(2..=90);
    let answers = [a * cents + 100 * c, repeated(cents, a) + repeated(100, c)];
    // Round prices belong to other families.
    if cents % 100 == 0 || answers[0] > 100_000 {
        return None;
    }
    let mut slots = slots(rng, &GOODS, &[a, 0, c]);
    slots.push(("price", money(cents)));
    let [first, second] = answers;
    Some(Drawn {
        parameters: format!("{a},{cents},{c}"),
        slots,
        answers: [hundredths(first)?, hundredths(second)?],
        program: format!(
            "goods = {a} * {cents}\ncents = goods + 100 * {c}\nprint(cents / 100 if cents % 100 else cents // 100)\n"
        ),
    })
}

const DISCOUNT_TRAIN: &[&str] = &[
    "One of the {item} costs ${a}. Today the price is {b}% lower. How many dollars does {name} pay for {c}?",
    "{name} buys {c} {item} with a regular price of ${a} each in a sale that takes {b}% off. What is the total in dollars?",
    "A shop reduces {item} from ${a} by {b}%. What do {c} of them cost after the reduction, in dollars?",
    "Members get {b}% off. {name}, a member, orders {c} {item} listed at ${a} apiece. Find the amount due in dollars.",
];
const DISCOUNT_TEST: &[&str] = &[
    "{item} at ${a} per piece are marked down by {b}%. {name} takes {c} home. Find the cost of this purchase in dollars.",
    "A coupon lowers the usual ${a} for one of the {item} by {b}%, however many are bought. {other} buys {c}. How many dollars is it altogether?",
    "The listed price of the {item} is ${a} each; as a student {name} is charged {b}% less. What does {name} spend on {c}, in dollars?",
];

fn discount(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (
        10 * rng.random_range(2..=40),
        pick(rng, &[10, 20, 30, 40, 50, 60]),
    );
    let c = rng.random_range(2..=12);
    let first = (a - a * b / 100) * c;
    // A tenth of the price, taken as often as tenths remain.
    let second = repeated(a / 10, 10 - b / 10) * c;
    let program = format!("off = {a} * {b} // 100\nprice = {a} - off\nprint(price * {c})\n");
    whole(rng, &GOODS, &[a, b, c], [first, second], program)
}

const AGES_TRAIN: &[&str] = &[
    "{name} is {a} years old. {other} is {b} times as old. How old will {other} be in {c} years?",
    "{other}'s age is {b} times that of {name}, who is {a}. What will {other}'s age be {c} years from now?",
    "Today {name} turns {a}, and {other} has lived {b} times as long. How many years old is {other} after {c} more years?",
    "A tree was planted {a} years ago. The house beside it has {b} times that age. How old is the house in {c} years?",
];
const AGES_TEST: &[&str] = &[
    "If {name} is {a} and {other} is {b} times that age, how old does {other} turn {c} years later?",
    "Suppose an oak is {b} times as old as a birch of {a} years. Find the oak's age when {c} years have passed.",
    "{name}, aged {a}, has a neighbour whose age is {b} times {name}'s own. State the neighbour's age {c} years hence.",
];

fn ages(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (rng.random_range(5..=30), rng.random_range(2..=6));
    let c = rng.random_range(2..=25);
    if a * b > 95 {
        return None;
    }
    let second = (0..c).fold(repeated(a, b), |age, _| age + 1);
    let program = format!("now = {a} * {b}\nprint(now + {c})\n");
    whole(rng, &GOODS, &[a, b, c], [a * b + c, second], program)
}

const READING_TRAIN: &[&str] = &[
    "A book has {a} pages. {name} reads one {part} of it on Monday and {c} pages on Tuesday. How many pages are left?",
    "{name} collected {a} {item}, sold one {part} of them and lost {c}. How many {item} does {name} still own?",
    "Of {a} seats in a theatre, one {part} are taken by children and {c} by parents. How many seats stay empty?",
    "A roll holds {a} metres of wire. {name} cuts off one {part} of the roll, later another {c} metres. What length in metres remains?",
];
const READING_TEST: &[&str] = &[
    "There were {a} litres in a tank. One {part} ran out overnight, and {name} used {c} litres in the morning. How many litres has the tank now?",
    "{name} must paint {a} boards: one {part} were finished last week, {c} this week. How many boards are yet to be painted?",
    "From a savings box with ${a}, {other} withdrew one {part} for shoes and ${c} for a hat. How many dollars does the box still contain?",
];

fn reading(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (part, b) = pick(
        rng,
        &[
            ("third", 3),
            ("quarter", 4),
            ("fifth", 5),
            ("sixth", 6),
            ("eighth", 8),
            ("tenth", 10),
        ],
    );
    let a = b * rng.random_range(8..=900 / b);
    let c = rng.random_range(5..=a / 2);
    // All parts but one, less the pages.
    let second = repeated(a / b, b - 1) - c;
    let program = format!("part = {a} // {b}\nleft = {a} - part\nprint(left - {c})\n");
    let mut drawn = whole(
        rng,
        &COLLECTED,
        &[a, b, c],
        [a - a / b - c, second],
        program,
    )?;
    drawn.slots.push(("part", part.to_owned()));
    Some(drawn)
}

const RATE_TRAIN: &[&str] = &[
    "A machine makes {a} {item} in {b} minutes. At the same speed, how many {item} does it make in {c} minutes?",
    "{name} can label {a} {item} within {b} minutes. Keeping that pace, how many are labelled after {c} minutes?",
    "In {b} hours a workshop finishes {a} {item}. How many would it finish in {c} hours at an unchanged rate?",
    "{a} {item} weigh as much as {b} bricks. How many {item} weigh as much as {c} bricks?",
];
const RATE_TEST: &[&str] = &[
    "For {b} boxes {name} needs {a} {item}. What number of {item} is needed for {c} such boxes?",
    "{other} sorts {item} steadily, {a} of them every {b} minutes. Give the number sorted during {c} minutes.",
    "A recipe for {b} guests asks for {a} grams of flour. {name} expects {c} guests. How many grams are right?",
];

fn rate(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (b, k) = (rng.random_range(2..=12), rng.random_range(3..=30));
    let c = rng.random_range(2..=40);
    let a = b * k;
    if c == b {
        return None;
    }
    // The rule of three, the other way round.
    let second = a * c / b;
    let program = format!("each = {a} // {b}\nprint(each * {c})\n");
    whole(rng, &GOODS, &[a, b, c], [k * c, second], program)
}

const FENCE_TRAIN: &[&str] = &[
    "A rectangular garden is {a} m long and {b} m wide. A fence around it costs ${c} per metre. What does the fence cost in dollars?",
    "{name} frames a rectangle of {a} metres by {b} metres with wood at ${c} a metre. How many dollars is the wood for the whole border?",
    "The sides of a rectangular field measure {a} m and {b} m. Walling it in takes {c} hours for every metre. How many hours does it take?",
    "Around a pool of {a} m by {b} m {name} lays {c} tiles on each metre of its edge. How many tiles is that?",
];
const FENCE_TEST: &[&str] = &[
    "{name} runs {c} times around a rectangular court with sides of {a} and {b} metres. How many metres does {name} run?",
    "A tablecloth, {a} cm by {b} cm, gets lace along its complete border, {c} rows of it, all equally long. How many centimetres of lace are used?",
    "Lights hang along the outline of a rectangular plaza that is {b} m wide and {a} m long, {c} to a metre. Find how many lights hang there.",
];

fn fence(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (rng.random_range(6..=70), rng.random_range(3..=50));
    let c = rng.random_range(2..=9);
    if a <= b {
        return None;
    }
    // Side after side.
    let second = [a, b, a, b].into_iter().map(|side| repeated(side, c)).sum();
    let program = format!("half = {a} + {b}\nborder = 2 * half\nprint(border * {c})\n");
    whole(rng, &GOODS, &[a, b, c], [2 * (a + b) * c, second], program)
}

const COMPARISON_TRAIN: &[&str] = &[
    "{name} has {a} {item}. {other} has {b} more than {name}, and Zoe has {c} times as many as {other}. How many does Zoe have?",
    "Class A gathered {a} {item} and class B {b} more than class A. Class C gathered {c} times what class B did. How many did class C gather?",
    "On Friday {name} found {a} {item}, on Saturday {b} more than on Friday, and on Sunday {c} times as many as on Saturday. How many were found on Sunday?",
    "A red box holds {a} {item}. A blue box holds {b} more, a green one {c} times as many as the blue one. How many are in the green box?",
];
const COMPARISON_TEST: &[&str] = &[
    "{other} beat {name}'s record of {a} {item} by {b}. The champion reached {c} times {other}'s number. What number is the champion's?",
    "Adding {b} to {name}'s {a} {item} gives what {other} owns; a museum owns {c} times that. Find the museum's number of {item}.",
    "This year {name} found {b} {item} beyond last year's {a}. {other} found {c} times as many as {name} this year. How many was that?",
];

fn comparison(rng: &mut ChaCha8Rng) -> Option<Drawn> {
    let (a, b) = (rng.random_range(4..=120), rng.random_range(3..=80));
    let c = rng.random_range(2..=8);
    // Each summand multiplied by itself.
    let second = repeated(a, c) + repeated(b, c);
    let program = format!("middle = {a} + {b}\nprint(middle * {c})\n");
    whole(rng, &COLLECTED, &[a, b, c], [(a + b) * c, second], program)
}

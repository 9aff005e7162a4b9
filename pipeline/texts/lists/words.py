"""Word lists of the general pool, comma-separated; ``make_general`` puts them into sentences."""

COLORS = """crimson, scarlet, maroon, burgundy, coral, salmon, rose, magenta, fuchsia, lavender,
lilac, violet, indigo, navy, cobalt, azure, turquoise, teal, aquamarine, mint, emerald, jade, olive,
lime, khaki, mustard, amber, golden, ochre, tan, beige, ivory, cream, chestnut, mahogany, chocolate,
rust, copper, bronze, silver, charcoal, slate, ash gray, jet black, snow white, pale pink, neon
green, neon pink, electric blue, sky blue, dark green, deep purple, bright orange, lemon yellow,
peach, apricot, plum, mauve, sepia, translucent"""

BASIC_COLORS = "red, orange, yellow, green, blue, purple, pink, brown, black, white, gray"

PALETTES = """warm earth tones, cold blue tones, pastel colors, neon colors, muted colors, saturated
colors, a single color, black and white tones, high contrast, low contrast, complementary colors,
rainbow colors, metallic colors, faded colors, autumn colors, candy colors, a sepia tint, a green
tint, a red glow, a blue cast, inverted colors, a color gradient, soft gray tones, gold and black,
red and white stripes, blue and yellow, pink and gold, black and red, orange and teal, mostly white
space, mostly dark areas"""

MATERIALS = """wood, polished marble, granite, concrete, brick, rusty iron, brushed steel, gold,
copper wire, glass, frosted glass, ice, water, sand, mud, clay, leather, suede, velvet, silk, denim,
wool, cotton, lace, knitted yarn, burlap, straw, bamboo, wicker, paper, crumpled paper, cardboard,
plastic, rubber, foam, wax, porcelain, terracotta, tile, asphalt, gravel, pebbles, moss, bark,
leaves, feathers, fur, scales, bone, shell, pearl, crystal, smoke, foil, chain mail, rope, felt,
fleece, cork, sponge"""

PATTERNS = """striped, polka-dotted, checkered, plaid, houndstooth, paisley, floral, herringbone,
zigzag, camouflage, leopard, zebra, tie-dyed, woven, honeycomb, mosaic, spiral, swirling, geometric,
tartan, argyle, ikat, batik, damask, crosshatched, marbled, speckled, pinstriped, gingham,
embroidered, quilted, pleated, fish-scale, brick-like, barcode-like, maze-like, fractal, concentric,
diamond, chevron"""

SURFACES = """smooth, rough, bumpy, sticky, fluffy, prickly, slippery, wet, dusty, cracked,
scratched, shiny, matte, glittering, wrinkled, peeling, porous, grainy, furry, spiky, hairy, greasy,
frozen, burnt, hard, soft, hollow, ribbed, woven, reflective"""

SHAPES = """circle, semicircle, oval, triangle, isosceles triangle, square, rectangle, rhombus,
trapezoid, pentagon, hexagon, octagon, star, heart, crescent, cross, arrow, ring, spiral, cube,
sphere, cylinder, cone, pyramid, dome, arch, helix, wave, teardrop, crown, diamond, grid, knot,
zigzag, curve, ladder, tunnel, disc, egg, needle, bell, fan, funnel, horseshoe, cloud, shield,
wheel, tube, triangle pointing down, double loop"""

LETTERS = "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z"

NUMBERS = """zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve,
thirteen, fifteen, twenty, fifty, one hundred, one thousand, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13,
21, 42, 50, 77, 99, 100, 365, 1984, 2000"""

_NUMBERS = "two, three, four, five, six, seven, eight, many, countless, a dozen, a pair of"
_NOUNS = "objects people animals bicycles flowers windows birds faces bottles trees chairs lights"

COUNTED = (
    ", ".join(f"{number} {noun}" for noun in _NOUNS.split() for number in _NUMBERS.split(", "))
    + """, a single object, a single person, a lone animal, one bicycle, one flower, one window,
a lone bird, one face, one bottle, a lone tree, an empty chair, one light, nobody in it,
a crowd, a flock, a herd, a swarm, a stack, a heap, a row of identical things"""
)

CITIES = """Lisbon, Porto, Madrid, Barcelona, Seville, Paris, Lyon, Marseille, London, Edinburgh,
Dublin, Amsterdam, Brussels, Berlin, Hamburg, Munich, Vienna, Salzburg, Zurich, Geneva, Milan,
Venice, Florence, Rome, Naples, Athens, Istanbul, Prague, Budapest, Warsaw, Krakow, Stockholm, Oslo,
Copenhagen, Helsinki, Tallinn, Riga, Moscow, Kyiv, Tbilisi, Yerevan, Dubai, Doha, Jerusalem, Beirut,
Cairo, Marrakesh, Casablanca, Tunis, Lagos, Accra, Nairobi, Addis Ababa, Cape Town, Johannesburg,
Zanzibar, Mumbai, Delhi, Kolkata, Jaipur, Varanasi, Kathmandu, Colombo, Dhaka, Bangkok, Hanoi,
Singapore, Kuala Lumpur, Jakarta, Manila, Hong Kong, Shanghai, Beijing, Taipei, Seoul, Busan, Tokyo,
Kyoto, Osaka, Sydney, Melbourne, Auckland, Honolulu, Anchorage, Vancouver, Toronto, Montreal,
Seattle, San Francisco, Los Angeles, Las Vegas, Phoenix, Denver, Chicago, Detroit, Nashville, New
Orleans, Miami, Atlanta, Washington, Philadelphia, New York, Boston, Mexico City, Oaxaca, Havana,
Kingston, Panama City, Bogota, Quito, Lima, Cusco, La Paz, Santiago, Buenos Aires, Montevideo, Rio
de Janeiro, Sao Paulo, Salvador, Reykjavik, Samarkand, Ulaanbaatar, Lhasa, Petra, Pompeii"""

COUNTRIES = """Portugal, Spain, France, Italy, Greece, Turkey, Germany, Switzerland, Norway, Sweden,
Finland, Iceland, Ireland, Scotland, Wales, England, Poland, Russia, Ukraine, Romania, Croatia,
Egypt, Morocco, Algeria, Senegal, Ghana, Nigeria, Kenya, Tanzania, Ethiopia, Namibia, Madagascar,
South Africa, Israel, Jordan, Iran, India, Nepal, Bhutan, Sri Lanka, Thailand, Vietnam, Cambodia,
Indonesia, the Philippines, China, Mongolia, South Korea, Japan, Australia, New Zealand, Fiji,
Canada, Alaska, Texas, California, Hawaii, Mexico, Guatemala, Cuba, Jamaica, Colombia, Ecuador,
Peru, Bolivia, Chile, Argentina, Brazil, Greenland, Antarctica"""

LANDSCAPES = """a sandy beach, a rocky coast, steep sea cliffs, an open ocean, a coral reef, a calm
lake, a winding river, a waterfall, a swamp, a mangrove, a rain forest, a pine forest, a birch
forest, a bamboo grove, a meadow, rolling hills, a wheat field, a rice terrace, a vineyard, an
orchard, a lavender field, a tulip field, a savanna, a prairie, a desert with dunes, a salt flat, a
canyon, a mountain peak, a snowy mountain range, a glacier, an iceberg, a volcano, a lava field, a
cave, a geyser, a tropical island, a fjord, a valley in fog, the night sky, the Milky Way, northern
lights, a full moon, a sunset over water, a frozen lake, a country road, a farm, a quarry, a garden
pond, a hedge maze, a cemetery"""

INDOORS = """kitchen, bathroom, bedroom, living room, dining room, nursery, attic, basement, garage,
hallway, staircase, office, meeting room, classroom, library, laboratory, hospital room, dentist's
office, pharmacy, supermarket, bakery, butcher's shop, bookshop, clothing store, jewelry shop,
barber shop, restaurant, cafe, bar, nightclub, theater, cinema, concert hall, museum, art gallery,
church, mosque, temple, synagogue, gym, swimming pool, locker room, airport terminal, train station,
subway car, airplane cabin, cockpit, elevator, factory hall, workshop, warehouse, greenhouse, barn,
stable, prison cell, courtroom, hotel lobby, sauna, wine cellar, server room, recording studio,
television studio, casino, bowling alley, laundry room, tent, spacecraft"""

OUTDOORS = """playground, city square, pedestrian street, highway, bridge, crosswalk, parking lot,
bus stop, gas station, railway track, harbor, pier, marina, canal, beach promenade, park, botanical
garden, zoo, amusement park, football stadium, tennis court, golf course, skate park, ski slope, ice
rink, race track, campsite, picnic site, farmers' market, flea market, night market, fairground,
construction site, junkyard, oil rig, wind farm, solar farm, power plant, dam, airfield, rooftop,
balcony, backyard, terrace, courtyard, alley, schoolyard, cemetery, archaeological site,
battlefield, refugee camp, fishing village, fountain, outdoor cafe, open-air concert"""

BUILDINGS = """skyscraper, apartment block, cottage, log cabin, farmhouse, mansion, palace, castle,
lighthouse, windmill, water tower, church, cathedral, mosque, pagoda, temple, monastery, school,
university, hospital, hotel, motel, bank, post office, town hall, opera house, stadium, factory,
mill, greenhouse, barn, igloo, hut, tent, tree house, houseboat, fortress, tower, observatory,
ruin"""

ARCHITECTURE = """a spiral staircase, a stone arch, a vaulted ceiling, stained glass, a tiled roof,
a thatched roof, a wooden door, a red door, an iron gate, a balcony railing, a marble column, a
gargoyle, a dome, a minaret, a bell tower, a fireplace, a chimney, a skylight, a glass facade, a
brick wall, a concrete wall, wooden beams, half-timbered walls, a carved ceiling, a mosaic floor,
Gothic architecture, Baroque architecture, Art Deco architecture, brutalist architecture, Islamic
architecture, Japanese architecture, modern minimalist architecture, classical Greek architecture,
colonial architecture, Victorian architecture, futuristic architecture"""

SEASONS = "spring, summer, autumn, winter, the rainy season, the dry season"

MONTHS = """January, February, March, April, May, June, July, August, September, October, November,
December"""

TIMES = "dawn, sunrise, noon, dusk, sunset, twilight, night, midnight, the golden hour, blue hour"

WEATHER = """rain, heavy rain, drizzle, snow, a snowstorm, hail, fog, mist, a thunderstorm,
lightning, strong wind, a hurricane, a tornado, a sandstorm, bright sunshine, a clear blue sky,
scattered clouds, an overcast sky, storm clouds, a rainbow, frost, melting snow, a heat haze, a
flood, smog"""

MAMMALS = """dog, puppy, cat, kitten, horse, foal, donkey, cow, calf, bull, sheep, lamb, goat, pig,
rabbit, hamster, guinea pig, mouse, rat, squirrel, chipmunk, hedgehog, bat, fox, wolf, coyote, bear,
polar bear, panda, koala, kangaroo, deer, elk, moose, reindeer, bison, camel, llama, giraffe, zebra,
elephant, rhinoceros, hippopotamus, lion, tiger, leopard, cheetah, lynx, hyena, monkey, gorilla,
chimpanzee, orangutan, lemur, sloth, anteater, armadillo, beaver, otter, badger, raccoon, skunk,
seal, walrus, dolphin, whale, meerkat, porcupine, yak, platypus"""

BIRDS = """sparrow, robin, crow, raven, magpie, pigeon, dove, seagull, pelican, albatross, penguin,
puffin, duck, goose, swan, heron, stork, crane, flamingo, peacock, pheasant, turkey, hen, rooster,
chick, ostrich, emu, owl, eagle, hawk, falcon, vulture, parrot, macaw, cockatoo, toucan,
hummingbird, kingfisher, woodpecker, swallow, finch, canary"""

SEA_AND_REPTILES = """goldfish, salmon, trout, shark, stingray, clownfish, seahorse, eel, jellyfish,
octopus, squid, starfish, sea urchin, crab, lobster, shrimp, snail, slug, clam, coral, turtle,
tortoise, crocodile, lizard, iguana, chameleon, gecko, snake, cobra, frog, toad, salamander, newt,
dragon, dinosaur"""

INSECTS = """butterfly, moth, bee, wasp, ant, fly, mosquito, dragonfly, ladybug, beetle,
grasshopper, cricket, praying mantis, caterpillar, spider, scorpion, centipede, worm, cicada,
firefly"""

PLANTS = """roses, tulips, daisies, sunflowers, lilies, orchids, poppies, lavender, daffodils,
irises, peonies, cherry blossoms, lotus flowers, dandelions, thistles, ivy, ferns, moss, mushrooms,
cactuses, succulents, palm trees, oak trees, pine trees, willow trees, maple leaves, birch trees,
bamboo, reeds, tall grass, clover, wheat, corn, sugar cane, grape vines, seaweed, fallen leaves, dry
branches, tree roots, seedlings, a bonsai tree, a hedge, water lilies, climbing plants, weeds"""

PROFESSIONS = """doctor, nurse, surgeon, dentist, pharmacist, veterinarian, scientist, chemist,
astronomer, engineer, architect, electrician, plumber, carpenter, mechanic, welder, miner, builder,
farmer, shepherd, fisherman, gardener, lumberjack, beekeeper, baker, chef, waiter, barista,
bartender, butcher, shopkeeper, cashier, tailor, shoemaker, hairdresser, potter, blacksmith,
jeweler, painter, sculptor, photographer, film director, actor, clown, magician, dancer, ballerina,
singer, pianist, drummer, violinist, conductor, DJ, writer, journalist, librarian, teacher,
professor, student, lawyer, judge, politician, businessman, banker, secretary, programmer, police
officer, firefighter, soldier, sailor, pilot, astronaut, flight attendant, bus driver, taxi driver,
truck driver, train conductor, cyclist, postman, cleaner, window washer, security guard, lifeguard,
priest, monk, nun, imam, rabbi, king, queen, knight, cowboy, pirate, ninja, boxer, wrestler,
referee, coach, mountaineer, diver"""

EMOTIONS = """joy, sadness, anger, fear, surprise, disgust, love, grief, pride, shame, jealousy,
hope, boredom, curiosity, confusion, excitement, calm, loneliness, nostalgia, relief,
disappointment, gratitude, tenderness, awe, amusement, anxiety, embarrassment, determination,
contempt, serenity, despair, trust, playfulness, exhaustion, suspicion"""

ACTIVITIES = """reading, writing, drawing, painting, cooking, baking, eating, drinking, sleeping,
waking up, running, walking, climbing, swimming, diving, sailing, rowing, fishing, hunting, cycling,
driving, riding horses, skiing, skating, surfing, dancing, singing, playing music, applauding,
laughing, crying, shouting, whispering, arguing, hugging, kissing, shaking hands, waving, pointing,
praying, meditating, stretching, lifting weights, jumping, falling, crawling, sitting, standing in
line, waiting, shopping, carrying boxes, cleaning, washing clothes, gardening, building something,
repairing a car, working at a computer, talking on the phone, taking a photograph, watching a film,
playing cards, playing chess, flying a kite, blowing bubbles, building a snowman, marching,
protesting, celebrating, camping, taking a bath"""

PEOPLE = """a newborn baby, a toddler, a young girl, a young boy, a teenager, a young woman, a young
man, a middle-aged woman, a middle-aged man, an elderly woman, an elderly man, twins, a family of
four, a couple holding hands, a bride and a groom, a mother with a child, a father with a child,
grandparents with children, a group of friends, a school class, a sports team, a choir, an
orchestra, an audience, a crowd in the street, a person alone, a person seen from behind, a person
in profile, a person with red hair, a person with blond hair, a person with dark curly hair, a bald
man, a man with a beard, a man with a mustache, a woman with long hair, a woman with short hair, a
person with freckles, a person with tattoos, a person with painted nails, a person in a wheelchair,
a masked person, a pregnant woman, a smiling person, a person with closed eyes, a person in
shadow"""

BODY = """an eye, blue eyes, a nose, lips, teeth, an ear, a hand, a fist, fingers, a thumb, a foot,
bare legs, knees, a back, shoulders, a neck, long hair, braided hair, eyebrows, a beard, wrinkled
skin, freckles, a skull, a skeleton, a paw, a beak, wings, a tail, horns, antlers, a snout,
whiskers, claws, fins, hooves, an animal's eye, open arms, crossed legs, clasped hands, muscles"""

CLOTHES = """shirt, T-shirt, blouse, sweater, hoodie, cardigan, jacket, leather jacket, raincoat,
winter coat, fur coat, vest, suit, tuxedo, uniform, dress, wedding dress, evening gown, skirt, kilt,
sari, kimono, poncho, robe, apron, swimsuit, wetsuit, lab coat, costume, armor, spacesuit, pair of
jeans, pair of shorts, pair of socks, pair of gloves, pair of boots, pair of sneakers, pair of
sandals, pair of high heels, pair of slippers, jersey, tracksuit, cape, toga"""

ACCESSORIES = """hat, cap, helmet, crown, turban, headscarf, hijab, veil, wig, headband, scarf, tie,
bow tie, belt, necklace, bracelet, ring, brooch, watch, pair of glasses, pair of sunglasses, mask,
gas mask, umbrella, cane, handbag, backpack, suitcase, wallet, fan, flower in the hair, medal,
badge, earring, bandage, sword, shield, flag, balloon, torch"""

DISHES = """pasta, spaghetti, pizza, risotto, paella, sushi, ramen, dumplings, fried rice, curry,
tacos, burritos, nachos, hamburgers, hot dogs, sandwiches, French fries, steak, roast chicken,
sausages, bacon and eggs, an omelette, pancakes, waffles, oatmeal, soup, stew, salad, grilled fish,
oysters, lobster, cheese, olives, bread, croissants, bagels, pretzels, cake, birthday cake,
cupcakes, cookies, doughnuts, chocolate, ice cream, pudding, pie, candy, popcorn, noodles,
falafel"""

PRODUCE = """apples, pears, oranges, lemons, limes, bananas, grapes, cherries, strawberries,
raspberries, blueberries, peaches, plums, mangoes, pineapples, melons, watermelons, kiwis, figs,
pomegranates, coconuts, avocados, tomatoes, cucumbers, carrots, potatoes, onions, garlic, peppers,
chili peppers, broccoli, cauliflower, cabbage, lettuce, spinach, pumpkins, eggplants, mushrooms,
beans, peas, corn, nuts, rice, spices, herbs, eggs"""

DRINKS = """water, milk, orange juice, lemonade, cola, iced tea, red wine, white wine, champagne,
beer, whisky, a cocktail, hot chocolate, coffee, espresso, green tea, a milkshake, a smoothie"""

VEHICLES = """car, sports car, vintage car, police car, taxi, ambulance, fire truck, truck, pickup
truck, van, bus, double-decker bus, school bus, tram, train, steam locomotive, subway train,
bicycle, motorcycle, scooter, skateboard, tricycle, wheelchair, stroller, tractor, bulldozer,
excavator, crane, forklift, tank, airplane, fighter jet, propeller plane, helicopter, hot-air
balloon, airship, rocket, space shuttle, drone, glider, parachute, sailboat, rowboat, canoe, kayak,
ferry, cruise ship, cargo ship, submarine, speedboat, fishing boat, gondola, raft, horse carriage,
sled, cable car, rickshaw"""

THINGS = """cup, mug, plate, bowl, spoon, fork, knife, teapot, coffee pot, wine glass, bottle, jar,
tin can, basket, frying pan, cooking pot, toaster, blender, kettle, scale, clock, alarm clock,
pocket watch, hourglass, candle, oil lamp, light bulb, lantern, flashlight, mirror, vase, picture
frame, book, stack of books, notebook, newspaper, magazine, envelope, letter, stamp, pen, pencil,
paintbrush, ruler, stapler, paper clip, globe, map, compass, magnifying glass, telescope,
microscope, binoculars, camera, film reel, television, radio, record player, microphone, headphone
set, telephone, smartphone, laptop, computer keyboard, computer mouse, printer, robot, battery,
calculator, remote control, key, padlock, coin, banknote, credit card, piggy bank, gift box,
cardboard box, toy car, teddy bear, doll, puppet, puzzle, dice, deck of cards, chessboard, marble,
balloon, ball, trophy, bell, whistle, toothbrush, soap bar, comb, razor, perfume bottle, lipstick,
hair dryer, towel, pillow, blanket, sewing machine, spool of thread, button, needle, pair of
scissors, broom, bucket, trash can, syringe, pill, stethoscope, test tube, flask, bone, feather,
seashell, pinecone, rock, crystal ball, mask, statue, fishing net, bird cage, fish tank"""

FURNITURE = """chair, armchair, rocking chair, stool, bench, sofa, table, desk, bed, bunk bed, crib,
wardrobe, bookshelf, chest of drawers, cabinet, mirror on the wall, carpet, curtain, chandelier,
floor lamp, fireplace, bathtub, sink, toilet, shower, stove, refrigerator, washing machine, piano,
ladder"""

TOOLS = """hammer, screwdriver, wrench, pair of pliers, saw, chainsaw, axe, drill, nail, screw,
bolt, shovel, rake, wheelbarrow, lawn mower, hose, paint roller, tape measure, anvil, gear, spring,
chain, hook, rope, pulley, crowbar, knife, sickle, pitchfork, plow"""

INSTRUMENTS = """guitar, electric guitar, violin, cello, double bass, harp, banjo, ukulele,
mandolin, piano, organ, accordion, harmonica, flute, clarinet, saxophone, oboe, trumpet, trombone,
tuba, drum kit, tambourine, xylophone, sitar, bagpipe, synthesizer"""

GAMES = """football, American football, basketball, baseball, cricket, tennis, table tennis,
badminton, volleyball, rugby, ice hockey, field hockey, golf, bowling, billiards, chess, darts,
polo, water polo, handball, dodgeball, sumo wrestling, fencing, curling"""

SPORTS = """gymnastics, yoga, karate, judo, boxing, archery, weightlifting, pole vault, long jump,
hurdles, a marathon, figure skating, ski jumping, snowboarding, surfing, kitesurfing, rock climbing,
bungee jumping, skydiving, paragliding, skateboarding, parkour, horse racing, motocross, rafting"""

STYLES = """impressionism, expressionism, cubism, surrealism, realism, pointillism, pop art, op art,
minimalism, abstract expressionism, Art Nouveau, Art Deco, Baroque painting, Renaissance painting,
Gothic art, Byzantine icons, ancient Egyptian art, Greek vase painting, Chinese ink painting,
Japanese woodblock prints, Persian miniatures, Aboriginal dot painting, folk art, graffiti, street
art, comic books, manga, cartoons, pixel art, vector graphics, low-poly graphics, steampunk,
cyberpunk, fantasy art, science fiction, children's drawings, caricature, psychedelic posters,
propaganda posters, vaporwave, constructivism, futurism, rococo, romanticism"""

MEDIA = """oil painting, watercolor painting, acrylic painting, pencil sketch, charcoal drawing, ink
drawing, chalk drawing, pastel drawing, woodcut, etching, screen print, collage, mosaic, fresco,
stained-glass window, tapestry, embroidery, quilt, marble sculpture, bronze sculpture, clay figure,
wooden carving, ice sculpture, sand sculpture, origami figure, paper cutout, tattoo, mural, computer
rendering, 3D model, screenshot, video game scene, film still, animated film frame, comic strip,
cartoon character, logo, icon, poster, postcard, book cover, album cover, advertisement, stamp,
coin, map, floor plan, blueprint, diagram, flow chart, bar chart, pie chart, line graph, scientific
figure, x-ray image, medical scan, satellite image, aerial photograph, microscope image, thermal
image, radar image, underwater photograph, night-vision image, passport photo, mug shot, selfie,
family snapshot, wedding photograph, fashion photograph, product photograph, food photograph, sports
photograph, news photograph, documentary photograph, wildlife photograph, landscape photograph,
street photograph, studio portrait, still life, double exposure, long exposure, time-lapse image,
panorama, Polaroid picture, daguerreotype, photo negative, hologram, puppet show, shadow play"""

LIGHTING = """soft light, harsh light, dim light, bright daylight, candlelight, moonlight,
firelight, neon light, fluorescent light, backlight, side light, light from above, light from below,
a spotlight, stage lighting, dappled light, golden light, cold light, colored light, deep shadow,
silhouette, half shadow, flickering light, a flash, window light, street light, a beam of light,
lens flare, reflected light, total darkness"""

COMPOSITION = """a symmetrical composition, an asymmetrical composition, a centered subject, a
subject off center, a diagonal composition, strong vertical lines, strong horizontal lines, leading
lines, a vanishing point, a frame within a frame, a view through a window, a view through a doorway,
a view from above, a view from below, a bird's-eye view, a worm's-eye view, an eye-level view, an
extreme close-up, a medium shot, a full-body shot, a wide-angle shot, a fisheye view, a telephoto
shot, a tilted horizon, a low horizon, a high horizon, a shallow depth of field, a blurred
background, a blurred foreground, everything in sharp focus, a cluttered composition, an empty
background, a white background, a black background, a green background, a natural background, an
urban background, a repeated motif, a mirror image, a reflection in water, layers of depth, negative
space, a crowded frame, a tight crop, a cut-off subject, a circular frame, a split screen, a grid of
pictures, a before-and-after pair, a picture inside a picture, a vertical picture, a square picture,
a wide panorama, motion blur, a frozen moment, a subject looking at the camera, a subject looking
away, overlapping objects, a pattern broken once, a tiny subject in a vast space, a giant subject
that fills the frame"""

POSITIONS = """an object on the left, an object on the right, an object at the top, an object at the
bottom, an object in the center, objects in all four corners, an object in the upper left corner, an
object in the upper right corner, an object in the lower left corner, an object in the lower right
corner, something in the foreground, something far away, something behind glass, something behind a
fence, something under a table, something on top of a shelf, something inside a box, something
hanging from the ceiling, something floating in the air, something under water, something leaning on
a wall, something lying on the ground, something between two others, something next to a person,
something half hidden, objects in a circle, objects in a row, objects in a pile, objects far apart,
objects close together, an object upside down, an object on its side"""

QUALITIES = """blurry, sharp, grainy, noisy, overexposed, underexposed, pixelated, low-resolution,
high-resolution, old, faded, scratched, torn, black-and-white, hand-colored, retouched, amateur,
professional, candid, posed, watermarked, compressed, distorted, rotated, cropped, dark, bright,
hazy, staged, scanned"""

WRITING = """handwriting, printed text, a street sign, a stop sign, a traffic sign, a shop sign, a
neon sign, a license plate, a price tag, a bar code, a page of a book, a newspaper headline, a menu,
a receipt, a blackboard with writing, a whiteboard, sticky notes, subtitles, a speech bubble, a web
page, computer code, a mathematical formula, musical notation, a signature, a date, a time stamp,
Arabic letters, Chinese characters, Japanese writing, Korean writing, Cyrillic letters, Greek
letters, Hebrew letters, Hindi script, hieroglyphs, runes, Roman numerals, graffiti tags, a brand
name, an arrow, a question mark, an exclamation mark, an emoji, a flag, a coat of arms, a calendar,
a scoreboard, a countdown, a name tag, a road map"""

ERAS = """Stone Age, Bronze Age, Roman Empire, Middle Ages, Renaissance, eighteenth century,
Victorian era, nineteenth century, 1900s, 1920s, 1930s, 1940s, 1950s, 1960s, 1970s, 1980s, 1990s,
early 2000s, present day, distant future"""

HOLIDAYS = """Christmas, New Year's Eve, Easter, Halloween, Thanksgiving, Valentine's Day, Hanukkah,
Passover, Ramadan, Eid, Diwali, Holi, Chinese New Year, the Day of the Dead, Carnival, Saint
Patrick's Day, Independence Day, Mother's Day, a birthday, an anniversary, the harvest, midsummer, a
victory"""

EVENTS = """wedding, funeral, graduation, parade, concert, festival, press conference, election
rally, demonstration, trial, auction, exhibition, trade fair, fashion show, theater play, opera,
circus show, magic show, fireworks display, bonfire, barbecue, picnic, dinner party, tea ceremony,
baptism, job interview, school lesson, lecture, surgery, rescue, car accident, train crash, house
fire, explosion, earthquake, sports final, award ceremony, rocket launch, military parade, road
trip"""

IDEAS = """freedom, justice, peace, war, power, wealth, poverty, health, illness, birth, death,
time, memory, dreams, science, religion, education, technology, progress, tradition, friendship,
family, childhood, old age, solitude, community, nature, pollution, danger, safety, luck, victory,
defeat, travel, home, mystery, beauty, decay, speed, balance, chaos, order, silence, noise, growth,
energy, hunger, abundance, magic, humor"""

MOODS = """cozy, eerie, festive, gloomy, romantic, peaceful, tense, dreamy, mysterious, cheerful,
solemn, chaotic, nostalgic, luxurious, rustic, futuristic, sterile, sacred, dramatic, lonely,
lively, hostile, playful, melancholic, majestic, sleepy, humid, exotic, intimate, industrial"""

STATES = """broken, brand-new, ancient, handmade, mass-produced, tiny, huge, thin, thick, long,
short, tall, wide, narrow, heavy, light, empty, full, open, closed, folded, unfolded, melted,
frozen, burning, floating, falling, flying, spinning, sliced, rotten, fresh, ripe, dirty, clean,
transparent, opaque, glowing, shattered, bent, curved, straight, sharp, blunt, striped, colorful,
colorless, edible, poisonous, expensive, cheap, useful, decorative, electronic, mechanical, wooden,
metallic, plastic, inflatable, wrapped"""

RELATIONS = """two people talking, two people fighting, two animals playing, a person with a dog, a
person with a cat, a child with a toy, an animal eating another, a mother animal with her young, a
person feeding birds, a hand holding an object, a person inside a vehicle, a person next to a
building, a predator chasing its prey, a team working together, a person helping another, a person
looking in a mirror, an animal behind bars, a bird on a branch, a boat on a lake, a car in front of
a house, a book beside a lamp, food on a table, flowers in a vase, a plant in a pot, clothes on a
line, a cat on a sofa, people around a fire, people around a table, a machine beside a human, a
large thing next to a small one, an object in front of its shadow, a person and their reflection, a
queue of cars, a ring of dancers, a teacher in front of pupils, a speaker in front of a crowd, a
bridge over a river, a road through a forest, a tree in front of a mountain, a house under a
cliff"""

TECHNICAL = """a circuit board, a tangle of cables, an engine, a solar panel, a wind turbine, a
radio antenna, a satellite dish, a control panel, a cockpit display, a robot arm, a conveyor belt, a
turbine, a pipeline, a power line, a nuclear reactor, a particle detector, a telescope dome, a
chemical molecule, a DNA helix, a cell under the microscope, bacteria, a virus, a brain scan, a
weather map, a topographic map, a star chart, a planet, the Earth from space, the surface of the
Moon, the Sun, Saturn with its rings, a galaxy, a comet, a solar eclipse, an abstract pattern,
random noise, a plain surface, a test image, an optical illusion, a QR code"""
